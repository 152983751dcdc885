"""What the loop asks of a task, and nothing more: the loop never learns what the model is."""

from typing import Protocol

import jax
from flax import nnx

Arrays = dict[str, jax.Array]
Sum = tuple[
    jax.Array, jax.Array
]  # a sum and the weight it is to be divided by, so that parts of a batch add up exactly


class Task(Protocol):
    """Turns raw outputs into a loss and predictions, on the device: everything here is traced into the step."""

    needs: tuple[str, ...]  # what batches must hold: ("label",) or ("boxes",)

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """((sum, weight) of the loss, the same of each part worth logging)."""

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """Arrays of fixed shape, the batch along axis 0."""
