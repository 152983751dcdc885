"""The U-Net of TensorFlow's segmentation tutorial, with a MobileNetV2 encoder and the upsampling decoder of pix2pix."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from errors import UserError
from fields import Count, Positive
from models import layers
from models.backbones.mobilenet_v2 import EPSILON, MobileNetV2, Variant
from models.layers import ConvTranspose, Momentum, Norm, keep
from models.registry import Dtype, Model


class Upsample(nnx.Module):
    """3x3 transposed convolution of stride 2 without bias, normalisation, ReLU (Isola et al. 2017, appendix 6.1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.conv = ConvTranspose(in_channels, out_channels, 3, stride=2, dtype=dtype, rngs=rngs)
        self.norm = norm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return keep(nnx.relu(self.norm(self.conv(x), train=train)))


class UNetMobileNetV2(Model):
    """Images [B,H,W,3] of any size to logits [B,H,W,num_classes], float32.

    `decoder` has the channels after each upsampling, from stride 16 to stride 2; each result is concatenated with the
    encoder's features of its stride. The other fields are those of MobileNetV2.
    """

    produces = "pixel logits"
    published = "encoder"

    def __init__(
        self,
        *,
        num_classes: int,
        width: Positive,
        depth: Positive,
        variant: Variant,
        norm: Norm,
        momentum: Momentum,
        decoder: tuple[Count, ...],
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.encoder = MobileNetV2(
            width=width, depth=depth, variant=variant, norm=norm, momentum=momentum, dtype=dtype, rngs=rngs
        )
        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON[variant], dtype=dtype)
        *skips, (_, channels) = self.encoder.channels.items()
        if len(decoder) != len(skips):
            raise UserError(f"model.decoder: needs {len(skips)} channel counts, one per skip, not {len(decoder)}")
        blocks = []
        for (_, skip_channels), out_channels in zip(reversed(skips), decoder, strict=True):
            blocks.append(Upsample(channels, out_channels, norm=make_norm, dtype=dtype, rngs=rngs))
            channels = out_channels + skip_channels
        self.decoder = nnx.List(blocks)
        # Glorot's variance instead of He's, because no ReLU follows the logits.
        self.head = ConvTranspose(
            channels,
            num_classes,
            3,
            stride=2,
            bias=True,
            kernel_init=nnx.initializers.glorot_uniform(),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        *skips, x = self.encoder(images, train=train).values()
        for upsample, skip in zip(self.decoder, reversed(skips), strict=True):
            x = upsample(x, train=train)
            # A stride rounds odd sizes up, so the doubled map may be a pixel larger than the skip.
            x = jnp.concatenate([x[:, : skip.shape[1], : skip.shape[2]], skip], axis=-1)
        logits = self.head(x)[:, : images.shape[1], : images.shape[2]]
        return logits.astype(jnp.float32)
