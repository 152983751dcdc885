"""Segmentation scores from one confusion matrix, which are IoU, accuracy and Dice, per class and as means."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer, Num

from experiments.metrics.base import Metric, Picture, Prediction, mean_defined
from experiments.pictures.plots import plot_confusion
from input_pipeline.batch import IGNORE, Example


class Confusion(Metric):
    """Counts pixels by true and predicted class in `counts` [C,C] int64, so that billions of pixels stay exact.

    The rows are the true classes. Pixels labelled 255 do not count.
    """

    name = "confusion"
    smaller_is_better, reads = frozenset(), ("label",)

    def __init__(self, class_names: tuple[str, ...]):
        self.class_names = class_names
        self.counts = np.zeros((len(class_names), len(class_names)), np.int64)

    def measure(self, prediction: Prediction, truth: Example) -> list[list[int]]:
        """Count the pixels of both `label` [H,W] uint8.

        Returns [[true class, predicted class, pixels], ...], the cells that are not 0.
        """
        classes = len(self.class_names)
        counted = truth["label"] != IGNORE
        cell = truth["label"][counted].astype(np.intp) * classes + prediction["label"][counted]
        counts = np.bincount(cell, minlength=classes**2)
        (cells,) = np.nonzero(counts)
        rows, columns = np.divmod(cells, classes)
        return np.stack([rows, columns, counts[cells]], axis=-1).tolist()

    def add(self, part: list[list[int]], image_id: int) -> None:
        for true, predicted, pixels in part:
            self.counts[true, predicted] += pixels

    def compute(self) -> dict[str, float]:
        """Return the scores by name. A class neither in the ground truth nor predicted is nan, and not in the means.

        The accuracies and frequency_weighted_IoU are those of Long et al. 2015, section 5. A class's accuracy is the share of
        its true pixels that was found, nan if there are none.
        """
        return {name: float(value) for name, value in self._score(*_margins(self.counts)).items()}

    def resample(
        self, parts: Sequence[list[list[int]]], weights: Integer[np.ndarray, "r n"]
    ) -> dict[str, Float[np.ndarray, " r"]]:
        counts = np.zeros((len(parts), 3, len(self.class_names)))  # whole numbers below 2^53 are exact
        for image, part in enumerate(parts):
            true, predicted, pixels = np.array(part, np.int64).reshape(-1, 3).T
            same = true == predicted
            for margin, (classes, own) in enumerate(((true[same], pixels[same]), (true, pixels), (predicted, pixels))):
                np.add.at(counts[image, margin], classes, own)
        return self._score(*np.moveaxis(np.tensordot(weights.astype(np.float64), counts, axes=1), 1, 0))

    def _score(
        self,
        hit: Num[np.ndarray, "*batch c"],
        labelled: Num[np.ndarray, "*batch c"],
        predicted: Num[np.ndarray, "*batch c"],
    ) -> dict[str, Any]:
        """Return scores [...] from the numbers of pixels of each class that are found, in the ground truth, and predicted."""
        scores, total = class_scores(hit, labelled, predicted), labelled.sum(-1)
        with np.errstate(invalid="ignore"):
            means = {
                "mIoU": mean_defined(scores["IoU"]),
                "pixel_accuracy": hit.sum(-1) / total,
                "mean_accuracy": mean_defined(scores["accuracy"]),
                "frequency_weighted_IoU": np.where(labelled > 0, labelled * scores["IoU"], 0).sum(-1) / total,
                "Dice": mean_defined(scores["Dice"]),
            }
        return means | {
            f"{score}/{name}": values[..., index]
            for score, values in scores.items()
            for index, name in enumerate(self.class_names)
        }

    def pictures(self) -> dict[str, Picture]:
        return {"confusion": plot_confusion(self.counts, self.class_names)}


def class_scores(
    hit: Num[np.ndarray, "*batch c"], labelled: Num[np.ndarray, "*batch c"], predicted: Num[np.ndarray, "*batch c"]
) -> dict[str, Float[np.ndarray, "*batch c"]]:
    """Return the per-class IoU, Dice and accuracy (recall) from the numbers of pixels of each class.

    IoU and Dice are nan if a class has no pixel in the ground truth or the prediction, and accuracy if it has none in the
    ground truth.
    """
    with np.errstate(invalid="ignore"):
        return {
            "IoU": hit / (labelled + predicted - hit),
            "Dice": 2 * hit / (labelled + predicted),
            "accuracy": hit / labelled,
        }


def _margins(
    counts: Int64[np.ndarray, "c c"],
) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    return np.diagonal(counts), counts.sum(1), counts.sum(0)
