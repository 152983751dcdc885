"""What an evaluation asks of a metric."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from input_pipeline.batch import Example

Prediction = dict[str, np.ndarray]  # what was predicted for one image, at its own size


class Metric(Protocol):
    """Scores of a split, from one part of each image's record. It keeps counts, or the parts where scores rank all (AP)."""

    name: str  # the key of its part in an image's record
    smaller_is_better: frozenset[str]  # the names of its scores that are errors
    reads: tuple[str, ...]  # the keys of a prediction that `measure` looks at

    def measure(self, prediction: Prediction, truth: Example) -> Any:
        """Measure one image: its part of the record, fit for JSON."""

    def add(self, part: Any, image_id: int) -> None:
        """Count a part that `measure` made, here, in another process or in an earlier run; each image once."""

    def compute(self) -> dict[str, float]:
        """Return the scores by name, nan where nothing was counted. The names are the same before any image."""

    def resample(self, parts: Sequence[Any], weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return scores [R] by name, as `compute` would of R samples in which image i, with parts[i], is weights[r, i] times.

        `weights` [R,N] are whole numbers. Scores that cannot be had so are left out. Changes nothing.
        """

    def pictures(self) -> dict[str, np.ndarray]:
        """Draw figures of the scores: [H,W,3] uint8 by name."""


def mean_defined(scores: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of the scores that are defined; nan where none is."""
    defined = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.where(defined, scores, 0).sum(-1) / defined.sum(-1)
