"""Datasets, with one file each or one per family. registry.py names them, and prepared.py is shared by prepared ones."""
