"""The interface between a task and the code that trains, evaluates and exports.

A task is the device half of an experiment. The training step calls it in this order, inside one `jax.jit`:

    outputs = task.apply(model, batch, train=True, rngs=rngs)  # run the network
    terms, logs = task.loss(outputs, batch)                    # a Mean for each name
    loss = total_loss(terms)                                   # the scalar to differentiate

Evaluation calls `apply(..., train=False)`, `loss` and `predict`; experiments/results and experiments/metrics then draw and
score the predictions on the host. To add a task, write a class with these methods and add its line to registry.py.

Annotations hold the shapes, and tests check them. Names of dimensions: b images of a batch; h rows and w columns of pixels
or cells; c classes; a anchors; m objects of an image; n any boxes; r regions; p proposals; s samples; d detections; k boxes of
a cell. Boxes are (top, left, bottom, right) in pixels of the input. The keys of a batch are in input_pipeline/batch.py.
"""

import abc
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Shaped, UInt8

from input_pipeline.batch import Size

Arrays = dict[str, jax.Array]  # a batch on the device, or predictions
Outputs = dict[str, Any]  # of `apply`: arrays by name, or for each level of a pyramid one, as a tuple
ArrayLike = jax.Array | np.ndarray  # numpy arrays are constants of the program, such as anchors
Stored = Shaped[np.ndarray, "..."]  # variables of a model, or rows of stored features
AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)  # for what works on the device and on the host
ModelT = TypeVar("ModelT", contravariant=True)  # the models that a task can call


@no_type_check  # by tests, because jax.tree.map builds Means of anything
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """One term of the loss, or one scalar to log, as a quotient that is exact over the global batch.

    Its value is sum(total) / max(sum(weight), floor), and 0 for 0 / 0. Totals and weights are summed over micro-batches and
    devices first and divided last. `factor` multiplies the term in the loss, but not in the logs. `floor=1` divides by at
    least 1, for losses that must also train on images without objects. `factor` and `floor` are constants of the program:
    `jax.tree.map` sees totals and weights alone.
    """

    total: Float[Array, ""]
    weight: Float[Array, ""]
    factor: float = dataclasses.field(default=1.0, metadata=dict(static=True))
    floor: float = dataclasses.field(default=0.0, metadata=dict(static=True))

    def value(self) -> Float[Array, ""]:
        """Return the quotient, without the factor. A non-finite total stays non-finite even if the weight is 0."""
        divisor = jnp.maximum(self.weight, self.floor)
        return self.total / jnp.where(divisor > 0, divisor, 1.0)


Means = dict[str, Mean]


class Task(abc.ABC, Generic[ModelT]):
    """Turns a model's outputs into terms of a loss and into predictions. jax traces its methods.

    Only `apply` may draw random numbers, or run parts of the network that depend on the ground truth, such as on a sample of
    regions: it puts the sample into the outputs. `loss` returns the terms whose outputs exist. The names of the terms depend
    on `train` alone.
    """

    needs: tuple[str, ...]  # keys of a batch: ("label",), ("boxes",), ("boxes", "masks") or ("boxes", "proposals")
    reads: str  # equals `produces` of the models that fit
    trains: tuple[str, ...]  # submodules that exist only to train and that the model must have, such as a discriminator
    solves: tuple[str, ...] = ()  # names of the variables that a SolvedTask solves for

    @abc.abstractmethod
    def apply(self, model: ModelT, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Run the network once. Return its outputs, and the geometry that `loss` and `predict` need, such as anchors."""

    @abc.abstractmethod
    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return the terms of the loss by name, and further scalars to log."""

    @abc.abstractmethod
    def predict(self, outputs: Outputs, batch: Arrays) -> Arrays:
        """Return the predictions by name, arrays of fixed shapes [B,...]."""


class SolvedTask(Task[ModelT]):
    """A task that is solved for once instead of trained by steps, such as R-CNN's SVMs and box regressions.

    Before the first step, the trainer stores what `describe` returns for every batch, and `solve` computes variables of the model
    from it. `solve` alone runs on the host.
    """

    remedy: str  # for the error where the model lacks the variables `solves`
    builds_on: tuple[str, ...]  # variables that an earlier run must have solved for: not zeros

    @abc.abstractmethod
    def describe(self, model: ModelT, batch: Arrays) -> tuple[Arrays, Bool[Array, "b n"]]:
        """Return what to store of a batch, arrays [B,N,...] by name, and a mask of the rows to keep. jax traces it."""

    @abc.abstractmethod
    def solve(self, stored: Iterable[Mapping[str, Stored]]) -> tuple[Mapping[str, Stored], Mapping[str, float]]:
        """Return the variables `solves` by name, and scalars to log.

        `stored` yields blocks of the rows that `describe` returned, and can be read several times.
        """


def total_loss(terms: Means) -> Float[Array, ""]:
    """Return the sum of factor * value over the terms, in their order, and 0 without terms."""
    return sum((term.factor * term.value() for term in terms.values()), start=jnp.zeros(()))


def normalise(
    image: UInt8[Array, "b h w 3"], mean: Float[ArrayLike, "3"], std: Float[ArrayLike, "3"]
) -> Float32[Array, "b h w 3"]:
    """Return (image - mean) / std for each channel."""
    return (image.astype(jnp.float32) - mean) / std


def image_size(batch: Arrays) -> Size:
    """Return the (height, width) of a batch's images."""
    _, height, width, _ = batch["image"].shape
    return height, width
