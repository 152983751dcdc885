"""Datasets: one file each, or one per family; registry.py names them, prepared.py is what tfds-prepared ones share."""
