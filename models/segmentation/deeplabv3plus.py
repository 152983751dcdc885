"""DeepLabV3+ (Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation")."""

from collections.abc import Callable, Sequence
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
LOW = 4  # stride of the features that the decoder adds


class Conv3x3(nnx.Module):
    """3x3 convolution [B,H,W,in] -> [B,H,W,out] of dilation `rate`, normalised, with a ReLU.

    `separable` makes it a depthwise 3x3 convolution and a 1x1 convolution, each normalised and with a ReLU
    (figure 3 of the paper; the released code's form).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        rate: int,
        separable: bool,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        spatial = partial(ConvNorm, in_channels, size=3, dilation=rate, norm=norm, dtype=dtype, rngs=rngs)
        if separable:
            self.spatial = spatial(in_channels, groups=in_channels)
            self.pointwise = ConvNorm(in_channels, out_channels, 1, norm=norm, dtype=dtype, rngs=rngs)
        else:
            self.spatial, self.pointwise = spatial(out_channels), nnx.data(None)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = jax.nn.relu(self.spatial(x, train=train))
        return x if self.pointwise is None else jax.nn.relu(self.pointwise(x, train=train))


class ASPP(nnx.Module):
    """Atrous spatial pyramid pooling [B,H,W,in] -> [B,H,W,out] (Chen et al. 2017, "Rethinking Atrous Convolution", 3.3).

    A 1x1 convolution, a 3x3 convolution for each of `rates` and the image's mean, each with `out` channels, are
    concatenated; a 1x1 convolution back to `out` and dropout follow. The image's mean is one pixel per example. So its batch
    normalisation has statistics of B numbers per channel, and training needs more than one example.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        rates: Sequence[int],
        separable: bool,
        dropout: float,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        conv_norm = partial(ConvNorm, size=1, norm=norm, dtype=dtype, rngs=rngs)
        conv3x3 = partial(Conv3x3, in_channels, out_channels, separable=separable, norm=norm, dtype=dtype, rngs=rngs)
        self.point = conv_norm(in_channels, out_channels)
        self.atrous = nnx.List(conv3x3(rate=rate) for rate in rates)
        self.image = conv_norm(in_channels, out_channels)
        self.project = conv_norm((len(rates) + 2) * out_channels, out_channels)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        mean = x.astype(jnp.float32).mean((1, 2), keepdims=True)
        image = jax.nn.relu(self.image(mean, train=train))
        branches = [jax.nn.relu(self.point(x, train=train)), *(atrous(x, train=train) for atrous in self.atrous)]
        branches.append(jnp.broadcast_to(image, branches[0].shape))
        y = jax.nn.relu(self.project(jnp.concatenate(branches, -1), train=train))
        return keep(self.dropout(y, deterministic=not train, rngs=rngs))


class DeepLabV3Plus(Model):
    """Images [B,H,W,3] of any size to logits [B,H,W,num_classes], float32.

    `backbone` has the fields of `registry.build_backbone`. The features of its largest stride go through ASPP to `aspp`
    channels. They are resized to stride 4, and concatenated with the backbone's features of that stride, reduced to
    `low_level` channels. Two 3x3 convolutions to `decoder` channels and a 1x1 convolution make the logits, which are resized
    to the images. `rates` are in pixels of the largest stride: the paper has (6, 12, 18) at 16, and twice that at 8.
    `separable` replaces every 3x3 convolution of ASPP and decoder by a depthwise and a 1x1 one. `dropout` is the rate at the
    end of ASPP. `norm` and `momentum` belong to ASPP and decoder; the backbone has its own.

    Raises UserError for a backbone without features of stride 4 or without a larger stride.
    """

    produces = "pixel logits"
    published = "backbone"

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        aspp: Count,
        rates: tuple[Count, ...],
        decoder: Count,
        low_level: Count,
        separable: bool,
        dropout: Rate,
        norm: Norm,
        momentum: Momentum,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        channels = self.backbone.channels
        if LOW not in channels or max(channels) == LOW:
            raise UserError(f"model.backbone: needs features of stride {LOW} and of a larger one, not {list(channels)}")
        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        self.aspp = ASPP(
            channels[max(channels)],
            aspp,
            rates=rates,
            separable=separable,
            dropout=dropout,
            norm=make_norm,
            dtype=dtype,
            rngs=rngs,
        )
        self.low_level = ConvNorm(channels[LOW], low_level, 1, norm=make_norm, dtype=dtype, rngs=rngs)
        conv3x3 = partial(Conv3x3, rate=1, separable=separable, norm=make_norm, dtype=dtype, rngs=rngs)
        self.decoder = nnx.List(conv3x3(in_channels, decoder) for in_channels in (aspp + low_level, decoder))
        self.head = layers.classifier(decoder, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        features = self.backbone(images, train=train)
        low = jax.nn.relu(self.low_level(features[LOW], train=train))
        x = self.aspp(features[max(features)], train=train, rngs=rngs)
        x = jnp.concatenate([resize(x, low.shape[1:3]), low], -1)
        for convolution in self.decoder:
            x = keep(convolution(x, train=train))
        return resize(self.head(x).astype(jnp.float32), images.shape[1:3])
