"""EfficientNet-Lite (Tan and Le 2019, "EfficientNet", without squeeze-and-excitation and with ReLU6) as a pyramid of features."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Literal, NamedTuple

import jax
from flax import nnx

from fields import Positive
from models import layers
from models.backbones.mobilenet_v2 import InvertedResidual, scale_channels
from models.backbones.weights import check_norm, match_efficientnet_lite
from models.layers import ConvNorm, Momentum, Norm, relu6
from models.weights import Weights


class Stage(NamedTuple):
    """A row of the paper's table 1, with `repeats` blocks of depthwise kernels of `size`.

    The first block has the stride.
    """

    expansion: int
    size: int
    channels: int
    repeats: int
    stride: int


STEM = 32  # channels, for every variant
STAGES = (
    Stage(1, 3, 16, 1, 1),
    Stage(6, 3, 24, 2, 2),
    Stage(6, 5, 40, 2, 2),
    Stage(6, 3, 80, 3, 2),
    Stage(6, 5, 112, 3, 1),
    Stage(6, 5, 192, 4, 2),
    Stage(6, 3, 320, 1, 1),
)
SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2), 3: (1.2, 1.4), 4: (1.4, 1.8)}  # of channels, and of repeats
EPSILON = 1e-3


class EfficientNetLite(nnx.Module):
    """Images [B,H,W,3] of any size to features `{stride: [B,ceil(H/stride),ceil(W/stride),channels[stride]]}`.

    A stride's features are those of the last block of that stride, a linear projection, as in timm's `features_only`.
    `variant` is the 0 to 4 in the name. It scales channels and repeats, except the stem's channels and the repeats of the
    first and last stage. In addition `width` scales all channels, and `depth` all repeats, to at least one. Convolutions
    have TensorFlow's SAME padding. The published weights expect (image - 127) / 128.
    """

    def __init__(
        self,
        *,
        variant: Literal[0, 1, 2, 3, 4],
        width: Positive,
        depth: Positive,
        norm: Norm,
        momentum: Momentum,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        wider, deeper = SCALES[variant]
        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        self.norm = norm
        first, *middle, last = (stage.repeats for stage in STAGES)
        scaled = (first, *(math.ceil(repeats * deeper) for repeats in middle), last)
        self.repeats = tuple(max(1, round(repeats * depth)) for repeats in scaled)

        channels = scale_channels(STEM, width)
        self.stem = ConvNorm(3, channels, 3, stride=2, norm=make_norm, dtype=dtype, rngs=rngs)
        stride, number, ends = 2, 0, {}
        for stage, repeats in zip(STAGES, self.repeats, strict=True):
            for repeat in range(repeats):
                block_stride = stage.stride if repeat == 0 else 1
                stride *= block_stride
                out_channels = scale_channels(scale_channels(stage.channels, wider), width)
                block = InvertedResidual(
                    channels,
                    out_channels,
                    expansion=stage.expansion,
                    size=stage.size,
                    stride=block_stride,
                    padding="SAME",
                    final=False,
                    norm=make_norm,
                    dtype=dtype,
                    rngs=rngs,
                )
                setattr(self, f"block_{number}", block)
                channels, number = out_channels, number + 1
            ends[stride] = (number - 1, channels)
        self._ends = tuple((stride, number, channels) for stride, (number, channels) in ends.items())

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the features by stride."""
        return {stride: channels for stride, _, channels in self._ends}

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[int, jax.Array]:
        stride_of = {number: stride for stride, number, _ in self._ends}
        x, features = relu6(self.stem(images, train=train)), {}
        for number in range(sum(self.repeats)):
            _, x = getattr(self, f"block_{number}")(x, train=train)
            if number in stride_of:
                features[stride_of[number]] = x
        return features

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair our arrays with those of timm or EfficientNet-PyTorch.

        Layers beyond the features are left unused. Raises UserError for other names, and if the normalisation has no batch
        statistics.
        """
        check_norm(self.norm, "model.backbone.norm")
        return match_efficientnet_lite(keys, self.repeats)
