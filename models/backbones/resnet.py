"""ResNet (He et al. 2016, "Deep Residual Learning for Image Recognition") as a pyramid of features."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

import jax
from flax import nnx

from fields import NotNegative, Positive
from models import layers as modules
from models.backbones.weights import check_norm, match_resnet
from models.layers import ConvNorm, Momentum, Norm, keep, scale_channels
from models.ops.pooling import max_pool
from models.weights import Weights

STEM = 64  # channels
STAGES = (64, 128, 256, 512)  # channels of the 3x3 convolutions, at strides 4, 8, 16 and 32
EXPANSION = 4  # of a bottleneck block's output over its 3x3 convolution
EPSILON = 1e-5
REPEATS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK = frozenset({50, 101})  # the depths whose blocks are bottlenecks


class ResidualBlock(nnx.Module):
    """A path of convolutions [B,H,W,in] -> [B,ceil(H/stride),ceil(W/stride),out] in parallel with a shortcut.

    The path is 3x3, 3x3 or, as a `bottleneck`, 1x1, 3x3, 1x1. The first 3x3 convolution has the stride, or with `early` the
    bottleneck's first 1x1 convolution. The first 3x3 convolution works on the block's input grid, with `dilation[0]`; a
    second one works on its output grid, with `dilation[1]`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        bottleneck: bool,
        stride: int,
        early: bool,
        dilation: tuple[int, int],
        norm: Callable[[int], nnx.Module],
        dtype: str,
        rngs: nnx.Rngs,
    ):
        conv_norm = partial(ConvNorm, norm=norm, dtype=dtype, rngs=rngs)
        first, second = (partial(conv_norm, dilation=rate, padding=((rate, rate), (rate, rate))) for rate in dilation)
        self.out_channels = channels * EXPANSION if bottleneck else channels
        if bottleneck:
            self.conv_1 = conv_norm(in_channels, channels, 1)
            self.conv_2 = first(channels, channels, 3, stride=1 if early else stride)
            self.conv_3 = conv_norm(channels, self.out_channels, 1)
        else:
            self.conv_1 = first(in_channels, channels, 3, stride=stride)
            self.conv_2 = second(channels, channels, 3)
            self.conv_3 = nnx.data(None)
        self.stride, self.early = stride, bottleneck and early
        same = stride == 1 and in_channels == self.out_channels
        self.shortcut = nnx.data(None) if same else conv_norm(in_channels, self.out_channels, 1)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # A strided 1x1 convolution skips pixels. Without these pixels layers.Conv runs it as a matrix product.
        seen = x[:, :: self.stride, :: self.stride]
        y = self.conv_1(seen if self.early else x, train=train)
        y = self.conv_2(jax.nn.relu(y), train=train)
        if self.conv_3 is not None:
            y = self.conv_3(jax.nn.relu(y), train=train)
        if self.shortcut is not None:
            x = self.shortcut(seen, train=train)
        return keep(jax.nn.relu(x + y))


class ResNet(nnx.Module):
    """Images [B,H,W,3] of any size to features `{stride: [B,ceil(H/stride),ceil(W/stride),channels[stride]]}`.

    Stride 2 gives the activated stem before pooling; each other stride gives the last block of its stage. `layers` is the
    paper's 18, 34, 50 or 101 (table 1), or 10 with one basic block per stage, for tests and small machines. `width` scales
    the channels. `output_stride` 32, 16 or 8 is the largest stride. Later stages keep the grid and dilate instead (Chen et
    al. 2017, "Rethinking Atrous Convolution", 3.1; unit rates (1, 1, 1)), and the last of them gives the features of that
    stride. At every second position they equal those of the next larger output stride.

    With `strides` "v1" a bottleneck's first 1x1 convolution has the stride, as in the paper and Caffe's weights; with "v1.5"
    its 3x3 convolution, as in the weights of torchvision and timm. `epsilon` belongs to the normalisation; some weights need
    another value than 1e-5.
    """

    def __init__(
        self,
        *,
        layers: Literal[10, 18, 34, 50, 101],
        width: Positive,
        norm: Norm,
        momentum: Momentum,
        output_stride: Literal[32, 16, 8],
        dtype: str,
        rngs: nnx.Rngs,
        strides: Literal["v1.5", "v1"] = "v1.5",
        epsilon: NotNegative = EPSILON,
    ):
        make_norm = partial(modules.norm, norm, momentum=momentum, epsilon=epsilon, dtype=dtype)
        self.layers, self.norm = layers, norm

        channels = scale_channels(STEM, width)
        self.stem = ConvNorm(3, channels, 7, stride=2, padding=((3, 3), (3, 3)), norm=make_norm, dtype=dtype, rngs=rngs)
        ends, stride, dilation = [(2, channels)], 4, 1  # (stride, channels) of the stem and of every stage
        for stage, (base, repeats) in enumerate(zip(STAGES, REPEATS[layers], strict=True), 1):
            wanted, before = (1 if stage == 1 else 2), dilation
            traded = stride * wanted > output_stride
            stride, dilation = (stride, dilation * wanted) if traded else (stride * wanted, dilation)
            for number in range(repeats):
                block = ResidualBlock(
                    channels,
                    scale_channels(base, width),
                    bottleneck=layers in BOTTLENECK,
                    stride=wanted if number == 0 and not traded else 1,
                    early=strides == "v1",
                    dilation=(before if number == 0 else dilation, dilation),
                    norm=make_norm,
                    dtype=dtype,
                    rngs=rngs,
                )
                setattr(self, f"block_{stage}_{number}", block)
                channels = block.out_channels
            ends.append((stride, channels))
        self._stages = tuple(ends)

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the features by stride."""
        return dict(self._stages)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[int, jax.Array]:
        x = jax.nn.relu(self.stem(images, train=train))
        features = {2: x}
        x = max_pool(x, 3, 2, ((1, 1), (1, 1)))
        for stage, repeats in enumerate(REPEATS[self.layers], 1):
            for number in range(repeats):
                x = getattr(self, f"block_{stage}_{number}")(x, train=train)
            features[self._stages[stage][0]] = x
        return features

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair our arrays with those of torchvision or timm, whose names agree.

        The classifier is left unused. Raises UserError for other names, and if the normalisation has no batch statistics.
        """
        check_norm(self.norm, "model.backbone.norm")
        stages = range(1, len(STAGES) + 1)
        projected = frozenset(stage for stage in stages if getattr(self, f"block_{stage}_0").shortcut is not None)
        return match_resnet(keys, REPEATS[self.layers], 3 if self.layers in BOTTLENECK else 2, projected)
