"""Boundary IoU, the overlap of the borders of masks, which does not depend on the interior of large objects."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Integer, Num, UInt8

from experiments.metrics.base import Metric, Picture, Prediction, mean_defined
from input_pipeline.batch import IGNORE, Example


class BoundaryIoU(Metric):
    """IoU of the parts of the true and the predicted mask near their own contours (Cheng et al. 2021, section 4).

    A pixel is near the contour if the square of 2 d + 1 pixels around it is not all in its mask. d is `distance` times the
    image's diagonal, rounded, at least 1. Masks end at the border of the image, so the border is a contour. Pixels are
    summed over the images, per class. Pixels labelled 255 are in no mask: they are removed from the prediction too before the
    contours are found, and both masks end at them.
    """

    name = "boundary"
    smaller_is_better, reads = frozenset(), ("label",)

    def __init__(self, class_names: tuple[str, ...], distance: float = 0.02):
        self.class_names = class_names
        self.distance = distance
        self.counts = np.zeros((len(class_names), 2), np.int64)  # intersection and union

    def measure(self, prediction: Prediction, truth: Example) -> list[list[int]]:
        """Compare both `label` [H,W] uint8.

        Returns [[class, intersection, union], ...] in pixels, for the classes that occur.
        """
        classes = len(self.class_names)
        true = truth["label"]
        predicted = np.where(true == IGNORE, np.uint8(IGNORE), prediction["label"])
        distance = max(1, round(self.distance * math.hypot(*true.shape)))
        near_true = near_contour(true, distance)
        near_predicted = near_contour(predicted, distance)
        both = near_true & near_predicted & (true == predicted)
        intersection = np.bincount(true[both], minlength=classes)
        union = np.bincount(true[near_true], minlength=classes) - intersection
        union += np.bincount(predicted[near_predicted], minlength=classes)
        (present,) = np.nonzero(union)
        return np.stack([present, intersection[present], union[present]], axis=-1).tolist()

    def add(self, part: list[list[int]], image_id: int) -> None:
        for index, intersection, union in part:
            self.counts[index] += (intersection, union)

    def compute(self) -> dict[str, float]:
        """Return `boundary_IoU/NAME` and their mean `boundary_IoU`.

        A class neither in the ground truth nor predicted is nan, and not in the mean.
        """
        return {name: float(value) for name, value in self._score(*self.counts.T).items()}

    def resample(
        self, parts: Sequence[list[list[int]]], weights: Integer[np.ndarray, "r n"]
    ) -> dict[str, Float[np.ndarray, " r"]]:
        counts = np.zeros((len(parts), 2, len(self.class_names)))
        for image, part in enumerate(parts):
            classes, *pixels = np.array(part, np.int64).reshape(-1, 3).T
            counts[image][:, classes] = pixels
        return self._score(*np.moveaxis(np.tensordot(weights.astype(np.float64), counts, axes=1), 1, 0))

    def _score(self, intersection: Num[np.ndarray, "*batch c"], union: Num[np.ndarray, "*batch c"]) -> dict[str, Any]:
        """Return scores [...] from the numbers of pixels of each class."""
        with np.errstate(invalid="ignore"):
            scores = intersection / union
        names = [f"boundary_IoU/{name}" for name in self.class_names]
        return {"boundary_IoU": mean_defined(scores)} | dict(zip(names, np.moveaxis(scores, -1, 0), strict=True))

    def pictures(self) -> dict[str, Picture]:
        return {}


def near_contour(label: UInt8[np.ndarray, "h w"], distance: int) -> Bool[np.ndarray, "h w"]:
    """Find the pixels that have another class, no class (255) or the image's edge within `distance` pixels.

    Distances are the larger of |dy| and |dx|. The result is, for all classes at once, the mask minus its erosion. Pixels
    without a class are False.
    """
    # A window of the image's own size already reaches beyond the image from every pixel.
    window = np.ones((2 * min(distance, max(label.shape)) + 1,) * 2, np.uint8)
    smallest = cv2.erode(label, window)
    largest = cv2.dilate(label, window, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE)
    return (smallest != largest) & (label != IGNORE)
