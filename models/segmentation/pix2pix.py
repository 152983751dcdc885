"""Pix2Pix (Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks") for segmentation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from errors import UserError
from fields import Count, Natural, Range
from models import layers
from models.layers import Conv, ConvTranspose, Momentum, Norm, Rate, he_normal, keep
from models.ops.convolution import Padding
from models.registry import Dtype, Model

EPSILON = 1e-5
SLOPE = 0.2  # of the leaky ReLU below zero
DROPPED = 3  # decoder blocks with dropout, from the innermost one
STRIDES = (2, 2, 2, 1)  # of the discriminator's normalised convolutions: with the last one each logit sees 70x70 pixels
SMALLEST = 24  # pixels per side, for which the discriminator makes one logit


def narrow_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return a kernel drawn from Normal(0, 0.02), for any fan-in (6.2)."""
    return 0.02 * math.sqrt(math.prod(shape[:-1]) / 2) * he_normal(key, shape)


class Down(nnx.Module):
    """4x4 convolution with a bias or a normalisation, and leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        padding: Padding,
        norm: Callable[[int], nnx.Module] | None,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            4,
            stride=stride,
            padding=padding,
            bias=norm is None,
            kernel_init=narrow_normal,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.data(None) if norm is None else norm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(x)
        return keep(nnx.leaky_relu(x if self.norm is None else self.norm(x, train=train), SLOPE))


class Up(nnx.Module):
    """4x4 transposed convolution of stride 2 without bias, normalisation, dropout, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        dropout: float,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = ConvTranspose(
            in_channels, out_channels, 4, stride=2, kernel_init=narrow_normal, dtype=dtype, rngs=rngs
        )
        self.norm = norm(out_channels)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        x = self.norm(self.conv(x), train=train)
        return keep(nnx.relu(self.dropout(x, deterministic=not train, rngs=rngs)))


class Discriminator(nnx.Module):
    """The 70x70 PatchGAN (3.2.2, 6.1.2), from [B,H,W,in] to a logit for each patch, [B,h,w,1] float32.

    256 pixels give 30 patches. `width` is the number of channels of the first layer. Raises UserError below 24 pixels per
    side, which have no patch.
    """

    def __init__(self, in_channels: int, *, width: int, norm: Callable[[int], nnx.Module], dtype: str, rngs: nnx.Rngs):
        padding = ((1, 1), (1, 1))
        blocks = []
        for number, stride in enumerate(STRIDES):
            block_norm = norm if number else None
            out_channels = width * 2**number
            blocks.append(
                Down(
                    in_channels,
                    out_channels,
                    stride=stride,
                    padding=padding,
                    norm=block_norm,
                    dtype=dtype,
                    rngs=rngs,
                )
            )
            in_channels = out_channels
        self.blocks = nnx.List(blocks)
        self.head = Conv(
            in_channels, 1, 4, padding=padding, bias=True, kernel_init=narrow_normal, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if min(x.shape[1:3]) < SMALLEST:
            raise UserError(f"model.discriminator: needs {SMALLEST} pixels per side, not {x.shape[1]}x{x.shape[2]}")
        for block in self.blocks:
            x = block(x, train=train)
        return self.head(x).astype(jnp.float32)


class Pix2Pix(Model):
    """Images [B,H,W,3] of any size to logits [B,H,W,num_classes], float32, by the U-Net generator (6.1.1) without its tanh.

    `width` is the number of channels of the first layer (64), which double up to 8 * width. `depth` is the number of strided
    convolutions; 8 reduce 256x256 pixels to one. `dropout` is the rate of the three innermost decoder blocks (0.5); it is
    the paper's only noise, and here it is used only in training. `discriminator` is the width of the discriminator's first
    layer (64), or 0 for none.

    As in the authors' code, the innermost map is not normalised, because in a batch of one its 1x1 map would become zero.
    """

    produces = "pixel logits"
    training_only = ("discriminator",)

    def __init__(
        self,
        *,
        num_classes: int,
        width: Count,
        depth: Annotated[int, Range(2)],
        norm: Norm,
        momentum: Momentum,
        dropout: Rate,
        discriminator: Natural,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        widths = [width * min(2**number, 8) for number in range(depth)]
        self.encoder = nnx.List(
            [
                Down(
                    before,
                    after,
                    stride=2,
                    padding="SAME",
                    norm=None if number in (0, depth - 1) else make_norm,
                    dtype=dtype,
                    rngs=rngs,
                )
                for number, (before, after) in enumerate(zip([3, *widths], widths, strict=False))
            ]
        )
        channels, blocks = widths[-1], []
        for number, out_channels in enumerate(reversed(widths[:-1])):
            rate = dropout if number < DROPPED else 0.0
            blocks.append(Up(channels, out_channels, dropout=rate, norm=make_norm, dtype=dtype, rngs=rngs))
            channels = 2 * out_channels
        self.decoder = nnx.List(blocks)
        self.head = ConvTranspose(
            channels, num_classes, 4, stride=2, bias=True, kernel_init=narrow_normal, dtype=dtype, rngs=rngs
        )
        self.discriminator = (
            Discriminator(3 + num_classes, width=discriminator, norm=make_norm, dtype=dtype, rngs=rngs)
            if discriminator
            else nnx.data(None)
        )

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        x, skips = images, []
        for block in self.encoder:
            x = block(x, train=train)
            skips.append(x)
        skips.pop()
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, train=train, rngs=rngs)
            # A stride rounds odd sizes up, so the doubled map may be a pixel larger than the skip.
            x = jnp.concatenate([x[:, : skip.shape[1], : skip.shape[2]], skip], axis=-1)
        logits = self.head(x)[:, : images.shape[1], : images.shape[2]]
        return logits.astype(jnp.float32)

    def discriminate(self, images: jax.Array, maps: jax.Array, *, train: bool) -> jax.Array:
        """Return logits [B,h,w,1] float32 that the patches of images [B,H,W,3] have the class maps [B,H,W,num_classes].

        The maps are probabilities or one-hot. Raises UserError for a model without a discriminator.
        """
        if self.discriminator is None:
            raise UserError("model.discriminator is 0: this model has none; give the width of its first layer, say 64")
        return self.discriminator(jnp.concatenate([images, maps.astype(images.dtype)], axis=-1), train=train)
