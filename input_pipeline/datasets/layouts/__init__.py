"""The ways in which people lay out folders: what is seen in one, and the files of each of its splits."""
