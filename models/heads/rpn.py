"""Region proposal network's head (Ren et al. 2015, "Faster R-CNN", section 3.1)."""

from collections.abc import Sequence
from functools import partial

import jax
from flax import nnx

from models.heads.dense import flatten, initial
from models.layers import Conv


class RPN(nnx.Module):
    """Maps [B,h,w,channels] to objectness [B,h*w*shapes], binary logits in float32, and offsets [B,h*w*shapes,4].

    A 3x3 convolution with a ReLU, then a 1x1 convolution for each output; all maps share them. `shapes` is the number of
    anchors of a pixel. The order is row, column, shape.
    """

    def __init__(self, channels: int, shapes: int, *, dtype: str, rngs: nnx.Rngs):
        conv = partial(Conv, bias=True, kernel_init=initial, dtype=dtype, rngs=rngs)
        self.conv, self.logits = conv(channels, channels, 3), conv(channels, shapes, 1)
        self.offsets = conv(channels, shapes * 4, 1)

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        maps = [jax.nn.relu(self.conv(x)) for x in maps]
        objectness = tuple(flatten(self.logits(x), 1)[..., 0] for x in maps)
        return objectness, tuple(flatten(self.offsets(x), 4) for x in maps)
