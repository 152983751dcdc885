"""Scores of the segments that borders cut an image into, independent of the borders' width: the ISBI 2012 challenge's."""

from collections.abc import Sequence

import cv2
import numpy as np

from errors import UserError
from input_pipeline.batch import IGNORE

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the probability that a pixel is inside a segment
ARGMAX = THRESHOLDS.index(0.5)


class Partition:
    """Foreground-restricted Rand and information scores after border thinning; Arganda-Carreras et al. 2015.

    Class 0 is the border, class 1 what it separates. True segments are the 4-connected components of label 1, predicted
    ones those of probability > threshold, grown until they meet: that thins a border to the line between two segments.
    The pixels of the true segments count, so the width of the true border does not matter either. No predicted segment
    at all scores 0. An image without a true segment is in no mean. Raises UserError unless there are two classes.
    """

    name = "partition"
    smaller_is_better = frozenset({"pixel_error"})
    reads = ("label", "probability")

    def __init__(self, class_names: tuple[str, ...]):
        if len(class_names) != 2:
            raise UserError(
                f"config.eval.metrics: 'partition' scores two classes, a border (0) and what it separates (1), but the "
                f"data has {len(class_names)}; leave it out"
            )
        self.sums = np.zeros((len(THRESHOLDS), 2))  # of the Rand and the information score
        self.images = self.wrong = self.counted = 0

    def measure(self, prediction: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict:
        """Measure `probability` [H,W,2] and `label` [H,W] uint8 against the true `label` [H,W] uint8.

        `scores` are [Rand, information] at each of THRESHOLDS, none where the ground truth has no segment; `wrong` and
        `counted` are pixels.
        """
        counted = truth["label"] != IGNORE
        inside = truth["label"] == 1
        true = connected_components(inside)[inside]
        inner = prediction["probability"][..., 1]
        scores = [score(true, thin(inner > threshold)[inside]) for threshold in THRESHOLDS] if true.size else []
        wrong = np.count_nonzero((prediction["label"] != truth["label"]) & counted)
        return {"scores": scores, "wrong": int(wrong), "counted": int(np.count_nonzero(counted))}

    def add(self, part: dict, image_id: int) -> None:
        if part["scores"]:
            self.sums += part["scores"]
            self.images += 1
        self.wrong += part["wrong"]
        self.counted += part["counted"]

    def compute(self) -> dict[str, float]:
        """Return the scores: `Rand` and `information` are means over the images at threshold 0.5, the argmax of two classes.

        `Rand_max` and `information_max` are the largest mean over the thresholds, by which the challenge ranks.
        `pixel_error` is the part of all pixels that is wrong: smaller is better.
        """
        scores = _score(self.sums, np.array([self.images, self.wrong, self.counted], np.float64))
        return {name: float(value) for name, value in scores.items()}

    def resample(self, parts: Sequence[dict], weights: np.ndarray) -> dict[str, np.ndarray]:
        none = np.zeros((len(THRESHOLDS), 2))
        sums = np.array([part["scores"] or none for part in parts])
        counts = np.array([[bool(part["scores"]), part["wrong"], part["counted"]] for part in parts], np.float64)
        return _score(np.tensordot(weights.astype(np.float64), sums, axes=1), weights @ counts)

    def pictures(self) -> dict[str, np.ndarray]:
        return {}


def _score(sums: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Score `sums` [...,thresholds,2] of Rand and information, and `counts` [...,3]: images, wrong and counted pixels."""
    images, wrong, counted = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore"):
        rand, information = np.moveaxis(sums / images[..., None, None], -1, 0)
        error = wrong / counted
    return {
        "Rand": rand[..., ARGMAX],
        "information": information[..., ARGMAX],
        "Rand_max": rand.max(-1),
        "information_max": information.max(-1),
        "pixel_error": error,
    }


def connected_components(mask: np.ndarray) -> np.ndarray:
    """Number the 4-connected components of `mask` [H,W] bool from 1: [H,W] int32, 0 outside the mask."""
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1]


def thin(inside: np.ndarray) -> np.ndarray:
    """Give each pixel its nearest component of `inside` [H,W] bool: [H,W] int32 without a border; all 0 without any."""
    segments = connected_components(inside)
    if not segments.any():
        return segments
    # Names each border pixel's nearest pixel inside by a number of its own, which leads to that pixel's component.
    nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    component = np.zeros(nearest.max() + 1, np.int32)
    component[nearest[inside]] = segments[inside]
    return component[nearest]


def score(true: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Score the segments [N] of N > 0 pixels: [Rand, information], each from 0 to 1; 0 in `predicted` means no segment.

    With p_ij the part of the pixels in true segment i and predicted segment j, and its sums t_i and s_j: the F-scores
    2 sum p_ij^2 / (sum t_i^2 + sum s_j^2) and 2 I(T, S) / (H(T) + H(S)). One segment in both has no information and scores 1.
    """
    if not predicted.any():
        return [0.0, 0.0]
    width = int(predicted.max()) + 1
    cells, pixels = np.unique(true.astype(np.int64) * width + predicted, return_counts=True)
    joint = pixels / true.size
    true_part, predicted_part = (np.bincount(index, joint) for index in np.divmod(cells, width))
    rand = 2 * np.sum(joint**2) / (np.sum(true_part**2) + np.sum(predicted_part**2))
    apart = _entropy(true_part) + _entropy(predicted_part)
    information = 2 * (apart - _entropy(joint)) / apart if apart else 1.0
    return [float(rand), float(information)]


def _entropy(parts: np.ndarray) -> float:
    """Return the entropy in nats."""
    parts = parts[parts > 0]
    return float(-np.sum(parts * np.log(parts)))
