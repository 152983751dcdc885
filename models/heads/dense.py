"""Heads that apply the same weights to every pixel of a pyramid's features (RetinaNet's and FCOS's)."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from errors import UserError
from models import layers
from models.layers import Conv, keep
from models.registry import Backbone

EPSILON = 1e-5
PRIOR = 0.01  # every score at the start
initial = nnx.initializers.normal(0.01)


def pyramid_of(backbone: Backbone, name: str, chosen: Sequence[int] = ()) -> tuple[tuple[int, ...], int]:
    """Return the strides of a backbone's features, or the `chosen` ones, and their channels.

    Raises UserError for a stride that the backbone does not have, and if the channels differ.
    """
    unknown = sorted(set(chosen) - set(backbone.channels))
    if unknown:
        raise UserError(
            f"config.model.strides: {name} has no features of stride {unknown[0]}; choose from {sorted(backbone.channels)}"
        )
    channels = {stride: backbone.channels[stride] for stride in chosen or backbone.channels}
    if len(set(channels.values())) > 1:
        raise UserError(
            f"config.model.backbone.name={name!r} has features of {sorted(set(channels.values()))} channels; the heads of a "
            "pyramid are shared, so take 'fpn', with this one as its bottom_up"
        )
    return tuple(sorted(channels)), next(iter(channels.values()))


class Tower(nnx.Module):
    """`depth` 3x3 convolutions, each with a bias and a ReLU, from maps [B,h,w,channels] to maps of the same shapes.

    All `levels` maps share the convolutions, and unless `norm` is "none", the normalisation before the ReLU. Batch
    normalisation is not shared, because maps of other strides have other statistics.
    """

    def __init__(
        self, channels: int, depth: int, *, levels: int, norm: str, momentum: float, dtype: str, rngs: nnx.Rngs
    ):
        make_norm = partial(layers.norm, norm, channels, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        self.depth, self.norm = depth, norm
        for number in range(1, depth + 1):
            conv = Conv(channels, channels, 3, bias=True, kernel_init=initial, dtype=dtype, rngs=rngs)
            setattr(self, f"conv_{number}", conv)
            if norm == "group":
                setattr(self, f"norm_{number}", make_norm())
            elif norm != "none":
                setattr(self, f"norm_{number}", nnx.List(make_norm() for _ in range(levels)))

    def __call__(self, maps: Sequence[jax.Array], *, train: bool) -> list[jax.Array]:
        return [self._run(x, level, train) for level, x in enumerate(maps)]

    def _run(self, x: jax.Array, level: int, train: bool) -> jax.Array:
        for number in range(1, self.depth + 1):
            x = getattr(self, f"conv_{number}")(x)
            if self.norm != "none":
                norm = getattr(self, f"norm_{number}")
                x = (norm if self.norm == "group" else norm[level])(x, train=train)
            x = jax.nn.relu(x)
        return keep(x)


def predictor(channels: int, values: int, *, dtype: str, rngs: nnx.Rngs) -> Conv:
    """Return the 3x3 convolution after a tower, with `values` outputs for each pixel and no activation."""
    return Conv(channels, values, 3, bias=True, kernel_init=initial, dtype=dtype, rngs=rngs)


def classifier(channels: int, values: int, *, dtype: str, rngs: nnx.Rngs) -> Conv:
    """Return a `predictor` of logits that start at a probability of 0.01 (Lin et al. 2017, Focal Loss, section 4.1).

    Otherwise the many pixels without an object would dominate the loss in the first steps.
    """
    made = predictor(channels, values, dtype=dtype, rngs=rngs)
    made.bias = nnx.Param(jnp.full(values, -math.log((1 - PRIOR) / PRIOR), jnp.float32))
    return made


def flatten(x: jax.Array, values: int) -> jax.Array:
    """Reshape a map [B,h,w,k * values] to [B,h*w*k,values] float32, in the order row, column, k."""
    return x.reshape(x.shape[0], -1, values).astype(jnp.float32)
