"""Heads that predict a region's class and box, by a softmax that trains with the network or by SVMs solved afterwards."""

import abc
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.layers import Conv

Classifier = Literal["softmax", "svm"]


class RegionHead(nnx.Module, abc.ABC):
    """Two fully connected layers of `fc` outputs on regions [N,h,w,channels], each with a ReLU and `dropout`.

    A subclass adds its last layers in `make_outputs`.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        *,
        fc: int,
        dropout: float = 0.0,
        num_classes: int,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        connected, inputs = partial(Conv, size=1, bias=True, dtype=dtype, rngs=rngs), size[0] * size[1] * channels
        self.fc6, self.fc7 = connected(inputs, fc), connected(fc, fc)
        self.dropout = nnx.Dropout(dropout)
        self.make_outputs(inputs, fc, num_classes, dtype=dtype, rngs=rngs)

    @abc.abstractmethod
    def make_outputs(self, inputs: int, fc: int, num_classes: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        """Make the layers on a region's `inputs` values and on the `fc` outputs of fc7."""

    @abc.abstractmethod
    def __call__(self, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        """Return the logits [N,1+num_classes], background first, and the offsets [N,1+num_classes,4] of regions."""

    def connect(self, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the outputs [N,1,1,fc] of fc7 for regions [N,h,w,channels]."""
        x = regions.reshape(regions.shape[0], 1, 1, -1)
        for fc in (self.fc6, self.fc7):
            x = self.dropout(jax.nn.relu(fc(x)), deterministic=not train, rngs=rngs)
        return x


class BoxHead(RegionHead):
    """Regions [N,h,w,channels] to logits [N,1+num_classes] float32, background first, and offsets [N,1+num_classes,4].

    The head of Girshick 2015, "Fast R-CNN", section 2: a RegionHead, then one layer for logits and one for offsets. As
    published, the background has offsets too, which are not used. The last two layers start from normal distributions of
    deviation 0.01 and 0.001 (section 2.3).
    """

    def make_outputs(self, inputs: int, fc: int, num_classes: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        connected, columns = partial(Conv, fc, size=1, bias=True, dtype=dtype, rngs=rngs), 1 + num_classes
        self.logits = connected(columns, kernel_init=nnx.initializers.normal(0.01))
        self.offsets = connected(4 * columns, kernel_init=nnx.initializers.normal(0.001))

    def __call__(self, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        x = self.connect(regions, train=train, rngs=rngs)
        return _flat(self.logits(x)), _split(_flat(self.offsets(x)))


class SVMHead(RegionHead):
    """A RegionHead whose last layers are solved for in R-CNN's later stages (Girshick et al. 2014, "Rich feature ...").

    `margins` are a linear SVM for each class on fc7 (section 2.3). `offsets` are a linear regression for each class on the
    regions themselves, pool5 in the paper (appendix C). Both start as zeros: all scores are equal, and boxes do not move.
    The background's columns are zeros, so a class's logit minus the background's is its margin. Both are computed in
    float32, as they were solved; in bfloat16 many margins would be equal.
    """

    def make_outputs(self, inputs: int, fc: int, num_classes: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        solved = partial(Conv, size=1, bias=True, kernel_init=nnx.initializers.zeros, dtype="float32", rngs=rngs)
        self.margins, self.offsets = solved(fc, num_classes), solved(inputs, 4 * num_classes)

    def __call__(self, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        margins = _flat(self.margins(self.connect(regions, train=train, rngs=rngs)))
        offsets = _split(_flat(self.offsets(regions.reshape(regions.shape[0], 1, 1, -1))))
        return jnp.pad(margins, ((0, 0), (1, 0))), jnp.pad(offsets, ((0, 0), (1, 0), (0, 0)))


HEADS: dict[Classifier, type[RegionHead]] = {"softmax": BoxHead, "svm": SVMHead}


def _flat(outputs: jax.Array) -> jax.Array:
    return outputs[:, 0, 0].astype(jnp.float32)


def _split(offsets: jax.Array) -> jax.Array:
    """Reshape [N,4*columns] to [N,columns,4].

    A layer's outputs have the coordinate before the class, so that classes are the last axis.
    """
    return offsets.reshape(offsets.shape[0], 4, -1).swapaxes(1, 2)
