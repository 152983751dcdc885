"""The heads that tell a region's class and its box: a softmax that trains with the network, or SVMs that come after it."""

import abc
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.layers import Conv

Classifier = Literal["softmax", "svm"]


class RegionHead(nnx.Module):
    """Two fully connected layers of `fc` outputs on regions [N,h,w,channels], each with a ReLU and `dropout`.

    A head's own class adds its last layers in `make_outputs`.
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
        """Makes the layers on a region's `inputs` values and on the `fc` outputs of fc7."""

    def connect(self, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        """What fc7 makes of regions [N,h,w,channels]: [N,1,1,fc]."""
        x = regions.reshape(regions.shape[0], 1, 1, -1)
        for fc in (self.fc6, self.fc7):
            x = self.dropout(jax.nn.relu(fc(x)), deterministic=not train, rngs=rngs)
        return x


class BoxHead(RegionHead):
    """Regions [N,h,w,channels] to logits [N,1+num_classes] float32, background first, and offsets [N,1+num_classes,4].

    The head of Girshick 2015, "Fast R-CNN", section 2: a RegionHead, then a layer for each of the two. As published the
    background has offsets too, which nobody reads. The last two layers start from a normal distribution of deviation
    0.01 and 0.001 (section 2.3).
    """

    def make_outputs(self, inputs: int, fc: int, num_classes: int, *, dtype: str, rngs: nnx.Rngs) -> None:
        connected, columns = partial(Conv, fc, size=1, bias=True, dtype=dtype, rngs=rngs), 1 + num_classes
        self.logits = connected(columns, kernel_init=nnx.initializers.normal(0.01))
        self.offsets = connected(4 * columns, kernel_init=nnx.initializers.normal(0.001))

    def __call__(self, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> tuple[jax.Array, jax.Array]:
        x = self.connect(regions, train=train, rngs=rngs)
        return _flat(self.logits(x)), _split(_flat(self.offsets(x)))


class SVMHead(RegionHead):
    """A BoxHead with what the later stages of R-CNN solve for (Girshick et al. 2014, "Rich feature hierarchies ...").

    `margins` are a linear SVM for each class on fc7 (section 2.3), and `offsets` a linear regression for each class on the
    regions themselves, pool5 in the paper (appendix C). Both start as zeros: no class scores, and boxes stay as they are.
    The background's columns are zeros, so that a class's logit less the background's is its margin. Both are computed in
    float32, as they were solved for: bfloat16 makes many margins equal.
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
    """[N,4*columns] to [N,columns,4]: the coordinate stands before the class, so that classes are a layer's last axis."""
    return offsets.reshape(offsets.shape[0], 4, -1).swapaxes(1, 2)
