"""Datasets: one file each, or one a family of them; registry.py names them, prepared.py is what tfds-prepared ones share."""
