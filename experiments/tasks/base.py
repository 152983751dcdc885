"""What the loop asks of a task, and nothing more: the loop never learns what the model is."""

from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

Arrays = dict[str, jax.Array]
Sum = tuple[
    jax.Array, jax.Array
]  # a sum and the weight it is to be divided by, so that parts of a batch add up exactly


class Metric(Protocol):
    """Adds up on the host what `Task.measure` counted on the device."""

    def merge(self, counts: Any) -> "Metric": ...

    def compute(self) -> dict[str, float]: ...


class Task(Protocol):
    """Turns raw outputs into a loss, predictions and counts. Everything with a `model` is traced into the step."""

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """((sum, weight) of the loss, the same of each part worth logging)."""

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """Arrays of fixed shape, the batch along axis 0."""

    def measure(self, predictions: Arrays, batch: Arrays) -> jax.Array:
        """Integer counts per example, [B, ...], for `metric().merge` and `record`."""

    def metric(self) -> Metric:
        """An empty metric."""

    def record(self, counts: np.ndarray) -> dict:
        """One example's counts -> its row in records/."""

    def draw(self, batch: dict[str, np.ndarray], predictions: dict[str, np.ndarray]) -> np.ndarray:
        """A picture [H,W,3] uint8 of predictions beside the truth."""

    def write(
        self, folder: Path, name: str, image: np.ndarray, prediction: dict[str, np.ndarray], to_original: np.ndarray
    ) -> list[Path]:
        """Writes one image's prediction at the image's own size; returns the files. `to_original` as in Batch."""
