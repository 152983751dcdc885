"""The detections that a picture shows, and the remark on those that it leaves out."""

from collections.abc import Mapping

import numpy as np


def keep_confident(detections: Mapping[str, np.ndarray], least_score: float) -> dict[str, np.ndarray]:
    """Keep the detections of `least_score` or more. Hundreds of weak ones would hide the image."""
    kept = detections["scores"] >= least_score
    return {name: values[kept] for name, values in detections.items()}


def describe_shown(scores: np.ndarray, least_score: float) -> str:
    """Return a remark on `scores` [N], which names the least score that is drawn, and the best one if none is drawn."""
    if not len(scores):
        return "no detection"
    if scores.max() >= least_score:
        return f"scores of {least_score:g} or more"
    # With enough digits that it is not rounded up to the least score.
    written = (f"{scores.max():.{digits}f}" for digits in range(2, 10))
    best = next((text for text in written if float(text) < least_score), scores.max())
    return f"best {best}, none of {least_score:g} or more"


def describe_none(scores: np.ndarray, least_score: float) -> str:
    """Return why no detection is drawn, "" if one is."""
    return "" if (scores >= least_score).any() else describe_shown(scores, least_score)
