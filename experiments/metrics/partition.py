"""Scores of the ISBI 2012 challenge, which compare the segments between borders and do not depend on the borders' width."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int32, Integer

from errors import UserError
from experiments.metrics.base import Metric, Picture, Prediction
from input_pipeline.batch import IGNORE, Example

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the probability that a pixel is inside a segment
ARGMAX = THRESHOLDS.index(0.5)


class Partition(Metric):
    """Foreground-restricted Rand and information scores after border thinning (Arganda-Carreras et al. 2015).

    Class 0 is the border, and class 1 the segments that it separates. True segments are the 4-connected components of label
    1. Predicted segments are those of probability > threshold, grown until they meet, which thins a border to the line
    between two segments. Only pixels of true segments count, so the width of the true border does not matter either. An image
    without a predicted segment scores 0. An image without a true segment is not in the means. Raises UserError unless there
    are two classes.
    """

    name = "partition"
    smaller_is_better = frozenset({"pixel_error"})
    reads = ("label", "probability")

    def __init__(self, class_names: tuple[str, ...]):
        if len(class_names) != 2:
            raise UserError(
                f"config.eval.metrics: 'partition' scores two classes, a border (0) and what it separates (1), but the "
                f"data has {len(class_names)}; remove it"
            )
        self.sums = np.zeros((len(THRESHOLDS), 2))  # of the Rand and the information score
        self.images = self.wrong = self.counted = 0

    def measure(self, prediction: Prediction, truth: Example) -> dict:
        """Compare `probability` [H,W,2] and `label` [H,W] uint8 with the true `label` [H,W] uint8.

        Returns `scores`, [Rand, information] at each of THRESHOLDS and empty if the ground truth has no segment, and the
        numbers of pixels `wrong` and `counted`.
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
        """Return the scores by name.

        `Rand` and `information` are means over the images at threshold 0.5, the argmax of two classes. `Rand_max` and
        `information_max` are the largest means over the thresholds, by which the challenge ranks. `pixel_error` is the share
        of all pixels that is wrong.
        """
        scores = _score(self.sums, np.array([self.images, self.wrong, self.counted], np.float64))
        return {name: float(value) for name, value in scores.items()}

    def resample(
        self, parts: Sequence[dict], weights: Integer[np.ndarray, "r n"]
    ) -> dict[str, Float[np.ndarray, " r"]]:
        none = np.zeros((len(THRESHOLDS), 2))
        sums = np.array([part["scores"] or none for part in parts])
        counts = np.array([[bool(part["scores"]), part["wrong"], part["counted"]] for part in parts], np.float64)
        return _score(np.tensordot(weights.astype(np.float64), sums, axes=1), weights @ counts)

    def pictures(self) -> dict[str, Picture]:
        return {}


def _score(sums: Float[np.ndarray, "*batch thresholds 2"], counts: Float[np.ndarray, "*batch 3"]) -> dict[str, Any]:
    """Return scores [...] from sums of Rand and information, and counts of images, wrong pixels and counted pixels."""
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


def connected_components(mask: Bool[np.ndarray, "h w"]) -> Int32[np.ndarray, "h w"]:
    """Number the 4-connected components of a mask from 1, with 0 outside the mask."""
    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1], np.int32)


def thin(inside: Bool[np.ndarray, "h w"]) -> Int32[np.ndarray, "h w"]:
    """Assign each pixel to its nearest component of a mask, so that no border remains. All are 0 for an empty mask."""
    segments = connected_components(inside)
    if not segments.any():
        return segments
    # Each pixel inside has a number of its own, and `nearest` holds the number of the pixel inside that is nearest.
    numbers = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    nearest = np.asarray(numbers, np.int32)
    component = np.zeros(nearest.max() + 1, np.int32)
    component[nearest[inside]] = segments[inside]
    return component[nearest]


def score(true: Integer[np.ndarray, " n"], predicted: Integer[np.ndarray, " n"]) -> list[float]:
    """Return [Rand, information], each from 0 to 1, of the segments of n > 0 pixels.

    p_ij is the share of the pixels in true segment i and predicted segment j, with the sums t_i and s_j. The scores are the
    F-scores 2 sum p_ij^2 / (sum t_i^2 + sum s_j^2) and 2 I(T, S) / (H(T) + H(S)). If both have one segment only, there is no
    information, and the score is 1. A value of 0 in `predicted` means no segment.
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


def _entropy(parts: Float[np.ndarray, " n"]) -> float:
    """Return the entropy in nats."""
    parts = parts[parts > 0]
    return float(-np.sum(parts * np.log(parts)))
