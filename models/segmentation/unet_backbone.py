"""A U-Net (Ronneberger et al. 2015) with any backbone as its contracting path, as is usual with pretrained weights."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from errors import UserError
from fields import Count
from models import layers
from models.layers import ConvNorm, Momentum, Norm, Rate, keep
from models.ops.resize import resize
from models.registry import BACKBONE, Dtype, Model, build_backbone

EPSILON = 1e-5


class DecoderBlock(nnx.Module):
    """Bilinear upsampling to the skip's size, concatenation, and two 3x3 convolutions, normalised, each with a ReLU."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.first = ConvNorm(in_channels + skip_channels, out_channels, 3, norm=norm, dtype=dtype, rngs=rngs)
        self.second = ConvNorm(out_channels, out_channels, 3, norm=norm, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, skip: jax.Array, *, train: bool) -> jax.Array:
        """Map x [B,h,w,in] and skip [B,H,W,skip] to [B,H,W,out]."""
        x = jnp.concatenate([resize(x, skip.shape[1:3]), skip], axis=-1)
        x = nnx.relu(self.first(x, train=train))
        return keep(nnx.relu(self.second(x, train=train)))


class UNetBackbone(Model):
    """Images [B,H,W,3] of any size to logits [B,H,W,num_classes], float32.

    `backbone` has the fields of `registry.build_backbone`. `decoder` has the channels of each block, from the deepest one
    upward, one for every stride of the backbone except the largest. The logits are made at the smallest stride and resized.
    `norm` and `momentum` belong to the decoder. `dropout` is the rate at the end of the contracting path, as in the paper.
    """

    produces = "pixel logits"
    published = "backbone"

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        decoder: tuple[Count, ...],
        norm: Norm,
        momentum: Momentum,
        dropout: Rate,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        *skips, channels = self.backbone.channels.values()
        if len(decoder) != len(skips):
            raise UserError(f"model.decoder: needs {len(skips)} channel counts, one per skip, not {len(decoder)}")
        self.dropout = nnx.Dropout(dropout)
        blocks = []
        for skip_channels, out_channels in zip(reversed(skips), decoder, strict=True):
            blocks.append(DecoderBlock(channels, skip_channels, out_channels, norm=make_norm, dtype=dtype, rngs=rngs))
            channels = out_channels
        self.decoder = nnx.List(blocks)
        self.head = layers.classifier(channels, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        *skips, x = self.backbone(images, train=train).values()
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip, train=train)
        return resize(self.head(x).astype(jnp.float32), images.shape[1:3])
