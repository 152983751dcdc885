"""Which detections a picture shows, and what it says of the others."""

from collections.abc import Mapping

import numpy as np


def keep_confident(detections: Mapping[str, np.ndarray], least_score: float) -> dict[str, np.ndarray]:
    """Keep the detections that are worth drawing: hundreds of weak ones would hide the image."""
    kept = detections["scores"] >= least_score
    return {name: values[kept] for name, values in detections.items()}


def describe_shown(scores: np.ndarray, least_score: float) -> str:
    """Say which of the detections with `scores` [N] are drawn, and where none is, how far the best one is from that."""
    if not len(scores):
        return "no detection"
    if scores.max() >= least_score:
        return f"scores of {least_score:g} or more"
    # As many digits as keep it from being rounded up to what it does not reach.
    written = (f"{scores.max():.{digits}f}" for digits in range(2, 10))
    best = next((text for text in written if float(text) < least_score), scores.max())
    return f"best {best}, none of {least_score:g} or more"


def describe_none(scores: np.ndarray, least_score: float) -> str:
    """Say why no detection is drawn; "" where one is."""
    return "" if (scores >= least_score).any() else describe_shown(scores, least_score)
