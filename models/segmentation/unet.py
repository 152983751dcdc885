"""U-Net (Ronneberger et al. 2015, `U-Net: Convolutional Networks for Biomedical Image Segmentation`)."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from errors import UserError
from fields import Count
from models import layers
from models.layers import Conv, ConvTranspose, Momentum, NormOrNone, Rate, he_normal, keep
from models.ops.pooling import max_pool
from models.registry import Dtype, Model

EPSILON = 1e-5


def margin(depth: int) -> int:
    """Return the pixels that an unpadded U-Net of `depth` poolings loses at each side, 92 for the paper's 4 (572 -> 388).

    Each level loses two pixels on the way down and two on the way up, of 2^level pixels of the image each. The bottom loses
    two.
    """
    return 6 * 2**depth - 4


def output_size(size: int, depth: int) -> int:
    """Return the height or width of the logits of an unpadded U-Net for an image of `size`.

    Raises UserError with the nearest valid sizes if a map to be pooled is odd or nothing is left.
    """
    step, smallest = 2**depth, 2 * margin(depth) + min(4, 2**depth)
    if (size + 4) % step or size < smallest:
        below = size - (size + 4) % step
        nearest = f"{below} or {below + step}" if below >= smallest else f"{smallest}"
        raise UserError(
            f"model.padding: 'valid' at depth {depth} takes no side of {size} pixels, as every map to be pooled must be "
            f"even; take {nearest}"
        )
    return size - 2 * margin(depth)


def upsampling_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return a kernel [k,k,in,out] of a transposed convolution of stride k, with the variance 2 / in (section 3).

    Each output pixel meets only one of the k x k taps, where `he_normal` would count all taps.
    """
    return shape[0] * he_normal(key, shape)


class ConvRelu(nnx.Module):
    """3x3 convolution with a bias or a normalisation, and ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        padding: str,
        norm: Callable[[int], nnx.Module] | None,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(in_channels, out_channels, 3, padding=padding, bias=norm is None, dtype=dtype, rngs=rngs)
        self.norm = nnx.data(None) if norm is None else norm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(x)
        return nnx.relu(x if self.norm is None else self.norm(x, train=train))


class Level(nnx.Module):
    """The two convolutions at one resolution of a path."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        padding: str,
        norm: Callable[[int], nnx.Module] | None,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.first = ConvRelu(in_channels, out_channels, padding=padding, norm=norm, dtype=dtype, rngs=rngs)
        self.second = ConvRelu(out_channels, out_channels, padding=padding, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return keep(self.second(self.first(x, train=train), train=train))


class UNet(Model):
    """Images [B,H,W,3] to logits [B,h,w,num_classes], float32.

    `depth` is the number of poolings (the paper's 4), and `width` the number of channels of the first level (64), which
    double at each level. `padding` "valid" is the paper's: h, w = `output_size` of H, W, the centre of the image; other sizes
    raise UserError. "same" pads with zeros and keeps any size. `norm` "none" is the paper's, with biases; "batch" and "group"
    normalise every 3x3 convolution. `dropout` is the rate at the end of the contracting path (3.1), in the level above the
    bottom and at the bottom, as in the released network (0.5). No ReLU follows an up-convolution: the text does not mention
    one, but the released network has it.
    """

    produces = "pixel logits"

    def __init__(
        self,
        *,
        num_classes: int,
        depth: Count,
        width: Count,
        padding: Literal["valid", "same"],
        norm: NormOrNone,
        momentum: Momentum,
        dropout: Rate,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.padding = padding
        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        level = partial(
            Level, padding=padding.upper(), norm=None if norm == "none" else make_norm, dtype=dtype, rngs=rngs
        )
        widths = [width * 2**number for number in range(depth + 1)]
        self.contracting = nnx.List([level(before, after) for before, after in zip([3, *widths], widths, strict=False)])
        self.dropout = nnx.Dropout(dropout)
        self.upsampling = nnx.List(
            [
                ConvTranspose(
                    2 * channels,
                    channels,
                    2,
                    stride=2,
                    bias=True,
                    kernel_init=upsampling_normal,
                    dtype=dtype,
                    rngs=rngs,
                )
                for channels in reversed(widths[:-1])
            ]
        )
        self.expanding = nnx.List([level(2 * channels, channels) for channels in reversed(widths[:-1])])
        self.head = Conv(width, num_classes, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        depth = len(self.expanding)
        if self.padding == "valid":
            for size in images.shape[1:3]:
                output_size(size, depth)
        x, skips = images, []
        for number, level in enumerate(self.contracting):
            # An odd size, possible only with "same", is rounded up.
            x = level(max_pool(x, 2, 2, "SAME") if number else x, train=train)
            if number >= depth - 1:
                x = self.dropout(x, deterministic=not train, rngs=rngs)
            skips.append(x)
        skips.pop()
        for upsample, level, skip in zip(self.upsampling, self.expanding, reversed(skips), strict=True):
            x = level(_join(skip, upsample(x)), train=train)
        return self.head(x).astype(jnp.float32)


def _join(skip: jax.Array, x: jax.Array) -> jax.Array:
    """Concatenate two maps, the larger one cut to the smaller.

    A skip is cut to its centre (figure 1); x may lose the pixel that a pooling added by rounding up.
    """
    top, left = (max(large - small, 0) // 2 for large, small in zip(skip.shape[1:3], x.shape[1:3], strict=True))
    height, width = (min(pair) for pair in zip(skip.shape[1:3], x.shape[1:3], strict=True))
    return jnp.concatenate([skip[:, top : top + height, left : left + width], x[:, :height, :width]], axis=-1)
