"""MobileNetV2 (Sandler et al. 2018, "Inverted Residuals and Linear Bottlenecks") as a pyramid of features."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple

import jax
from flax import nnx

from fields import Positive
from models import layers
from models.backbones.weights import check_norm, match_mobilenet_v2
from models.layers import Conv, ConvNorm, Momentum, Norm, keep, relu6
from models.ops.convolution import Padding
from models.weights import Weights


class Stage(NamedTuple):
    """A row of the paper's table 2, with `repeats` blocks.

    The first block has the stride.
    """

    expansion: int
    channels: int
    repeats: int
    stride: int


STEM = 32  # channels
STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)

# The two published sets of weights need different padding and epsilon; with the other ones, features are silently wrong.
Variant = Literal["keras", "torchvision"]
STRIDED_PADDING: dict[str, Padding] = {"keras": "SAME", "torchvision": ((1, 1), (1, 1))}
EPSILON = {"keras": 1e-3, "torchvision": 1e-5}


def scale_channels(channels: int, width: float) -> int:
    """Return `channels * width` as a multiple of 8, at most a tenth below it (the paper's released code)."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class InvertedResidual(nnx.Module):
    """Expansion (1x1), depthwise 3x3 (or of another `size`), linear projection (1x1), and a shortcut where shapes allow it.

    The network's first block does not expand (`expansion=1`). Its last block (`final`) ends at the projection, without a
    normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        size: int = 3,
        stride: int,
        padding: Padding,
        final: bool,
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        conv_norm = partial(ConvNorm, norm=norm, dtype=dtype, rngs=rngs)
        hidden = in_channels * expansion
        self.expand = conv_norm(in_channels, hidden, 1) if expansion > 1 else nnx.data(None)
        self.depthwise = conv_norm(hidden, hidden, size, stride=stride, padding=padding, groups=hidden)
        self.project = (
            Conv(hidden, out_channels, 1, dtype=dtype, rngs=rngs) if final else conv_norm(hidden, out_channels, 1)
        )
        self.shortcut = stride == 1 and in_channels == out_channels and not final

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Map [B,H,W,in] to the expanded activations [B,H,W,hidden] and the output [B,H/stride,W/stride,out]."""
        expanded = x if self.expand is None else relu6(self.expand(x, train=train))
        y = relu6(self.depthwise(expanded, train=train))
        y = self.project(y) if isinstance(self.project, Conv) else self.project(y, train=train)
        return expanded, keep(x + y if self.shortcut else y)


class MobileNetV2(nnx.Module):
    """Images [B,H,W,3] of any size to features `{stride: [B,ceil(H/stride),ceil(W/stride),channels[stride]]}`.

    Strides 2 to 16 give the expanded activations of the first block of each strided stage (Keras's
    block_1_expand_relu, block_3_, block_6_ and block_13_). Stride 32 gives the last projection before its normalisation
    (block_16_project). Later layers do not exist here.

    `width` scales the channels and `depth` the repeats of each stage, to at least one. `variant` is "keras" or
    "torchvision"; it sets epsilon and the padding of strided convolutions (SAME, which is (0,1) at even sizes, or (1,1)).
    """

    def __init__(
        self,
        *,
        width: Positive,
        depth: Positive,
        variant: Variant,
        norm: Norm,
        momentum: Momentum,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        padding = STRIDED_PADDING[variant]
        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON[variant], dtype=dtype)
        self.variant, self.norm = variant, norm
        self.repeats = tuple(max(1, round(stage.repeats * depth)) for stage in STAGES)

        channels = scale_channels(STEM, width)
        self.stem = ConvNorm(3, channels, 3, stride=2, padding=padding, norm=make_norm, dtype=dtype, rngs=rngs)
        stride, number, features = 2, 0, []
        for stage, repeats in zip(STAGES, self.repeats, strict=True):
            for repeat in range(repeats):
                block_stride = stage.stride if repeat == 0 else 1
                if block_stride > 1:
                    features.append((stride, number, channels * stage.expansion))
                    stride *= block_stride
                out_channels = scale_channels(stage.channels, width)
                block = InvertedResidual(
                    channels,
                    out_channels,
                    expansion=stage.expansion,
                    stride=block_stride,
                    padding=padding if block_stride > 1 else "SAME",
                    final=number == sum(self.repeats) - 1,
                    norm=make_norm,
                    dtype=dtype,
                    rngs=rngs,
                )
                setattr(self, f"block_{number}", block)
                channels, number = out_channels, number + 1
        self._features = (*features, (stride, number, channels))  # (stride, number of the block, channels)

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the features by stride."""
        return {stride: channels for stride, _, channels in self._features}

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[int, jax.Array]:
        stride_of = {number: stride for stride, number, _ in self._features}
        x, features = relu6(self.stem(images, train=train)), {}
        for number in range(sum(self.repeats)):
            expanded, x = getattr(self, f"block_{number}")(x, train=train)
            if number in stride_of:
                features[stride_of[number]] = expanded
        return features | {self._features[-1][0]: x}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair our arrays with those of torchvision, timm, Keras 2 or 3, which the `keys` identify.

        Layers beyond the features are left unused. Raises UserError for unknown names, for weights that were trained with
        another padding and epsilon, and if the normalisation has no batch statistics.
        """
        check_norm(self.norm, "model.norm")
        return match_mobilenet_v2(keys, self.variant, self.repeats)
