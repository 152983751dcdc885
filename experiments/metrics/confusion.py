"""Segmentation scores from one confusion matrix: IoU, mIoU, pixel accuracy, Dice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.batch import IGNORE


def count(label: jax.Array, prediction: jax.Array, example_mask: jax.Array, num_classes: int) -> jax.Array:
    """Pixels by true and predicted class, per image: [B,H,W] x2, [B] -> int32 [B,C,C], true classes along the rows.

    Pixels labelled 255 and images whose `example_mask` is False count nowhere. For use inside jit.
    """
    size = label.shape[0]
    counted = (label != IGNORE) & example_mask[:, None, None]
    cell = label.astype(jnp.int32) * num_classes + prediction.astype(jnp.int32)
    cell = cell + jnp.arange(size, dtype=jnp.int32)[:, None, None] * num_classes**2
    # Out of range on purpose where a pixel does not count: the scatter drops it.
    cell = jnp.where(counted, cell, size * num_classes**2).ravel()
    counts = jnp.zeros(size * num_classes**2, jnp.int32).at[cell].add(1, mode="drop")
    return counts.reshape(size, num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The sum of any number of batches: int64 [C,C] on the host, so that billions of pixels stay exact."""

    counts: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> "Confusion":
        return cls(np.zeros((len(class_names), len(class_names)), np.int64), class_names)

    def merge(self, counts: np.ndarray) -> "Confusion":
        """With the counts of more images, [B,C,C] or [C,C]."""
        added = np.asarray(counts, np.int64).reshape(-1, *self.counts.shape).sum(0)
        return dataclasses.replace(self, counts=self.counts + added)

    def compute(self) -> dict[str, float]:
        """The scores by name. A class that is neither in the truth nor predicted is nan and not in the mean."""
        scores = class_scores(self.counts)
        total = self.counts.sum()
        means = {
            "mIoU": _mean(scores["IoU"]),
            "pixel_accuracy": float(np.trace(self.counts) / total) if total else float("nan"),
            "Dice": _mean(scores["Dice"]),
        }
        return means | {
            f"{score}/{name}": float(value)
            for score, values in scores.items()
            for name, value in zip(self.class_names, values, strict=True)
        }


def class_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """[C,C] -> IoU and Dice per class [C], nan where a class has no pixel in either truth or prediction."""
    hit = np.diagonal(counts).astype(np.float64)
    labelled, predicted = counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):
        return {"IoU": hit / (labelled + predicted - hit), "Dice": 2 * hit / (labelled + predicted)}


def image_record(counts: np.ndarray) -> dict[str, list[int]]:
    """One image's [C,C] -> the three counts per class that every score here (and a bootstrap of it) can be made of."""
    return {
        "intersection": np.diagonal(counts).tolist(),
        "labelled": counts.sum(1).tolist(),
        "predicted": counts.sum(0).tolist(),
    }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
