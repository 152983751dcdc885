"""Formats in which people store ground truth. Training and scoring use the same readers."""
