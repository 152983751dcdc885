"""The formats in which people store ground truth, read for training and for scoring alike."""
