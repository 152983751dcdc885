"""VGG (Simonyan and Zisserman 2015, "Very Deep Convolutional Networks") as a pyramid of features."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple

import jax
from flax import nnx

from errors import UserError
from fields import Positive
from models import layers as modules
from models.backbones.weights import match_vgg
from models.layers import Conv, Momentum, NormOrNone, keep, scale_channels
from models.ops.convolution import Padding
from models.ops.pooling import max_pool
from models.weights import Weights

STAGES = (64, 128, 256, 512, 512)  # channels at strides 1 to 16
REPEATS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # columns A, B, D, E
EPSILON = 1e-5


class Classifier(NamedTuple):
    """A model's choices for fc6 and fc7, which are their channels, the dropout after each, fc6's padding and dilation.

    With a dilation above 1, fc6 has every third tap of its 7x7, and pool5 keeps the grid (see VGG).
    """

    channels: int
    dropout: float
    padding: Padding
    dilation: int = 1


class ConvRelu(nnx.Module):
    """Convolution [B,H,W,in] -> [B,H',W',out] with bias, normalisation where `norm` makes one, and a ReLU.

    Before batch normalisation the bias has no effect; the published weights have one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding,
        norm: Callable[[int], nnx.Module] | None,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        conv = partial(Conv, in_channels, out_channels, size, stride=stride, padding=padding, bias=True)
        self.conv = conv(dtype=dtype, rngs=rngs)
        self.norm = nnx.data(None) if norm is None else norm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(x)
        return jax.nn.relu(x if self.norm is None else self.norm(x, train=train))


class VGG(nnx.Module):
    """Images [B,H,W,3] of any size to features `{stride: [B,ceil(H/stride),ceil(W/stride),channels[stride]]}`.

    Strides 1 to 16 give the last activation of each stage before its pooling (conv1_2 to conv5_3 of VGG-16). Stride 32
    gives pool5. `layers` is 11, 13, 16 or 19 (table 1: A, B, D, E), `width` scales the channels, and `norm` is "none" as in
    the paper, "batch" or "group".

    A model sets the last two fields, not a config. `padding` belongs to the first convolution; with more than
    ((1, 1), (1, 1)) the features are those of a larger image. A `classifier` appends the first two fully
    connected layers as convolutions of 7x7 and 1x1, each with ReLU and dropout; stride 32 is then fc7. If its dilation
    is above 1, pool5 is 3x3 of stride 1 and fc6 an atrous convolution of 3x3 (Chen et al. 2015, "Semantic Image
    Segmentation with Deep Convolutional Nets and Fully Connected CRFs", section 3; SSD, section 3); the largest stride is
    then 16, and gives fc7.
    """

    def __init__(
        self,
        *,
        layers: Literal[11, 13, 16, 19],
        width: Positive,
        norm: NormOrNone,
        momentum: Momentum,
        padding: Padding = "SAME",
        classifier: Classifier | None = None,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        make_norm = partial(modules.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        self.layers, self.norm = layers, norm

        channels, ends = 3, []
        for stage, (base, repeats) in enumerate(zip(STAGES, REPEATS[layers], strict=True), 1):
            for number in range(1, repeats + 1):
                block = ConvRelu(
                    channels,
                    scale_channels(base, width),
                    3,
                    padding=padding if stage == number == 1 else "SAME",
                    norm=None if norm == "none" else make_norm,
                    dtype=dtype,
                    rngs=rngs,
                )
                setattr(self, f"conv_{stage}_{number}", block)
                channels = scale_channels(base, width)
            ends.append((2 ** (stage - 1), channels))
        self.fc6, self.fc7 = nnx.data(None), nnx.data(None)
        self.atrous = classifier is not None and classifier.dilation > 1
        if classifier is not None:
            conv = partial(Conv, bias=True, dtype=dtype, rngs=rngs)
            size, dilation = 3 if self.atrous else 7, classifier.dilation
            self.fc6 = conv(channels, classifier.channels, size, padding=classifier.padding, dilation=dilation)
            self.fc7 = conv(classifier.channels, classifier.channels, 1)
            self.dropout = nnx.Dropout(classifier.dropout)
            channels = classifier.channels
        self._stages = (*ends, (16 if self.atrous else 32, channels))

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the features by stride."""
        return dict(self._stages)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[int, jax.Array]:
        x, features = images, {}
        for stage, repeats in enumerate(REPEATS[self.layers], 1):
            for number in range(1, repeats + 1):
                x = getattr(self, f"conv_{stage}_{number}")(x, train=train)
            features[2 ** (stage - 1)] = x
            keeps_grid = self.atrous and stage == len(STAGES)
            x = keep(max_pool(x, 3, 1, "SAME") if keeps_grid else max_pool(x, 2, 2, "SAME"))
        if self.fc6 is not None and self.fc7 is not None:
            for fc in (self.fc6, self.fc7):
                x = self.dropout(jax.nn.relu(fc(x)), deterministic=not train, rngs=rngs)
        return features | {self._stages[-1][0]: x}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair our arrays with those of torchvision or timm (vgg16, or vgg16_bn for norm="batch").

        Layers of the classifier that this backbone lacks are left unused. An atrous fc6 and fc7 get evenly spaced channels of
        the file, and fc6 every third tap. Raises UserError for other names, and if only one of the file and the backbone has
        batch statistics.
        """
        if self.norm == "group":
            raise UserError(
                "pretrained: no published weights have model.backbone.norm='group'; choose 'none' or 'batch'"
            )
        thinned = self.channels[16] if self.atrous else None
        return match_vgg(keys, REPEATS[self.layers], self.norm != "none", self.fc6 is not None, thinned)
