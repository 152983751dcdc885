"""Data sets of our own: one that is made and one that is a folder of the user's."""
