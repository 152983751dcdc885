"""Segmentation scores from one confusion matrix: IoU, accuracy and Dice, per class and in the mean."""

import numpy as np

from experiments.pictures.plots import plot_confusion
from input_pipeline.batch import IGNORE


class Confusion:
    """Counts pixels by true and predicted class in `counts` [C,C] int64, so that billions of pixels stay exact.

    The true classes are along the rows. Pixels labelled 255 count nowhere.
    """

    name = "confusion"
    smaller_is_better = frozenset()

    def __init__(self, class_names: tuple[str, ...]):
        self.class_names = class_names
        self.counts = np.zeros((len(class_names), len(class_names)), np.int64)

    def measure(self, prediction: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> list[list[int]]:
        """Count `label` [H,W] uint8 of both: [[true class, predicted class, pixels], ...], the cells that are not 0."""
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
        """Return the scores by name. A class neither in the ground truth nor predicted is nan and not in the mean.

        The accuracies and frequency_weighted_IoU are those of Long et al. 2015, section 5: a class's accuracy is the part
        of its true pixels that was found, nan where there are none.
        """
        scores, labelled, total = class_scores(self.counts), self.counts.sum(1), self.counts.sum()
        in_truth = labelled > 0
        means = {
            "mIoU": _mean(scores["IoU"]),
            "pixel_accuracy": float(np.trace(self.counts) / total) if total else float("nan"),
            "mean_accuracy": _mean(scores["accuracy"]),
            "frequency_weighted_IoU": (
                float(labelled[in_truth] @ scores["IoU"][in_truth] / total) if total else float("nan")
            ),
            "Dice": _mean(scores["Dice"]),
        }
        return means | {
            f"{score}/{name}": float(value)
            for score, values in scores.items()
            for name, value in zip(self.class_names, values, strict=True)
        }

    def pictures(self) -> dict[str, np.ndarray]:
        return {"confusion": plot_confusion(self.counts, self.class_names)}


def class_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the per-class IoU, Dice and accuracy (recall), [C] each, of `counts` [C,C].

    IoU and Dice are nan where a class has no pixel in the ground truth or the prediction, accuracy where it has none in
    the ground truth.
    """
    hit = np.diagonal(counts).astype(np.float64)
    labelled, predicted = counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):
        return {
            "IoU": hit / (labelled + predicted - hit),
            "Dice": 2 * hit / (labelled + predicted),
            "accuracy": hit / labelled,
        }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
