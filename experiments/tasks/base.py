"""What the loop asks of a task, and nothing more: the loop does not know the model."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Arrays = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A term of the loss, or a scalar to log: sum(total) / max(sum(weight), floor) over the global batch; 0 for 0 / 0.

    Parts of a batch add up exactly, for totals and weights are summed before they are divided. `factor` is the term's
    share in the loss; what is logged is without it. `floor` 1 divides by one at least, where an image without objects
    must still train. Both are constants of the program, so that `jax.tree.map` sees totals and weights alone.
    """

    total: jax.Array
    weight: jax.Array
    factor: float = dataclasses.field(default=1.0, metadata=dict(static=True))
    floor: float = dataclasses.field(default=0.0, metadata=dict(static=True))

    def value(self) -> jax.Array:
        """The quotient, without the factor. A non-finite total stays non-finite even if the weight is 0."""
        divisor = jnp.maximum(self.weight, self.floor)
        return self.total / jnp.where(divisor > 0, divisor, 1.0)


Means = dict[str, Mean]


class Task(Protocol):
    """The device half: turns a model's outputs into terms of a loss and into predictions. Its methods are traced into the step.

    Everything that is random or depends on ground truth happens in `apply`. `loss` returns the terms whose outputs exist; their
    names are fixed for each value of `train`.
    """

    needs: tuple[str, ...]  # what batches must hold: ("label",), ("boxes",), ("boxes", "masks"), ("boxes", "proposals")
    reads: str  # the `produces` of the models that go with it
    trains: tuple[str, ...]  # submodules that a model must have for it, of those that exist only to train
    solves: tuple[str, ...] = ()  # of a SolvedTask: the variables that it solves for

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """Calls the network once: its outputs, and what `loss` and `predict` need of its geometry."""

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """The terms of the loss by name, and what is logged in addition to them."""

    def predict(self, outputs: Arrays, batch: Arrays) -> Arrays:
        """Arrays of fixed shape, the batch along axis 0."""


class SolvedTask(Task, Protocol):
    """A task without steps of training: before the first one, it solves for variables of the model on stored features.

    `solve` alone runs on the host.
    """

    remedy: str  # what to do where a model does not have the variables `solves`
    builds_on: tuple[str, ...]  # variables that another run must have given: zeros are none

    def describe(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array]:
        """What is stored of a batch, arrays [B,N,...] by name, and which of their rows are, [B,N] bool. Traced as `apply` is."""

    def solve(self, stored: Iterable[Mapping[str, np.ndarray]]) -> tuple[Mapping[str, np.ndarray], Mapping[str, float]]:
        """The variables `solves`, and scalars to log, from what is stored: blocks of rows, read as often as it likes."""


def total_loss(terms: Means) -> jax.Array:
    """The sum of factor * value over the terms, in their order."""
    return sum(term.factor * term.value() for term in terms.values())


def normalise(image: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """[B,H,W,3] uint8 -> float32: (image - mean) / std."""
    return (image.astype(jnp.float32) - mean) / std
