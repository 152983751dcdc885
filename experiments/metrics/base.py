"""The interface of a metric, which measures one image at a time and scores a whole split.

An evaluation calls `part = metric.measure(prediction, truth)` for each image, writes the part to the run's records, calls
`metric.add(part, image_id)`, and at the end `metric.compute()`. Parts are fit for JSON, so that other processes and later runs
can add them. To add a metric, write a class with these methods and add its line to registry.py.

Annotations hold the shapes, and tests check them. Names of dimensions: h rows and w columns of pixels; c classes; n images,
objects or pixels; d detections; r samples of a bootstrap; `*batch` any leading axes.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer, UInt8

from input_pipeline.batch import Example

Prediction = dict[str, np.ndarray]  # of one image, at the size of the stored image
Picture = UInt8[np.ndarray, "_ _ 3"]


@runtime_checkable
class Metric(Protocol):
    """Scores of a split. It keeps counts of the images' parts, or the parts themselves if a score ranks them all (AP)."""

    name: str  # the key of its part in an image's record
    smaller_is_better: frozenset[str]  # the names of its scores that are errors
    reads: tuple[str, ...]  # the keys of a prediction that `measure` uses

    def measure(self, prediction: Prediction, truth: Example) -> Any:
        """Measure one image. Return its part of the record, fit for JSON."""
        ...

    def add(self, part: Any, image_id: int) -> None:
        """Add an image's part, from this process, another process or an earlier run. Call this once for each image."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the scores by name, nan where nothing was counted. The names are the same before any image."""
        ...

    def resample(self, parts: Sequence[Any], weights: Integer[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        """Return the scores of r samples of n images, as a bootstrap draws them. The metric itself does not change.

        Sample i contains the image of parts[j] weights[i, j] times; the scores are those that `compute` would return for it.
        Scores that cannot be computed from the parts in this way are left out.
        """
        ...

    def pictures(self) -> dict[str, Picture]:
        """Draw figures of the scores, by name."""
        ...


def mean_defined(scores: Float[np.ndarray, "*batch c"]) -> Float[np.ndarray, "*batch"]:
    """Return the mean over the last axis of the scores that are not nan, and nan if none is."""
    defined = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, scores, 0).sum(-1) / defined.sum(-1))
