"""Feature pyramid network (Lin et al. 2017, "Feature Pyramid Networks for Object Detection") as a pyramid of features."""

from collections.abc import Iterable
from functools import partial
from typing import Literal

import jax
from flax import nnx

from errors import UserError
from fields import Count
from models import layers
from models.backbones.weights import BODY, FPN_KEYS, match_fpn
from models.layers import Conv, ConvNorm, Momentum, NormOrNone, keep
from models.ops.resize import double
from models.registry import BACKBONE, build_backbone
from models.weights import Weights, strip

EPSILON = 1e-5
HALVING = ((1, 1), (1, 1))  # padding of 3x3 convolutions of stride 2: a grid of half the size, rounded up


class FPN(nnx.Module):
    """Images [B,H,W,3] of any size to features `{stride: [B,ceil(H/stride),ceil(W/stride),width]}`, all of one width.

    The strides are `finest`, twice that, and so on to `coarsest`. At each stride of the backbone `bottom_up`, a 1x1
    convolution of its features is added to the next coarser sum, doubled; a 3x3 convolution of the sum gives the output
    (section 3). There is no activation. Each convolution has a bias or, unless `norm` is "none", a normalisation.

    `coarser` chooses how coarser strides are made. "pool" keeps every second pixel of the previous output (section 4.1:
    P6, for proposals). "c5" and "p5" are 3x3 convolutions of stride 2 with a bias, and a ReLU between them. The input of the
    first one is the last features of `bottom_up` for "c5" (Lin et al. 2017, "Focal Loss for Dense Object Detection", section
    4), and the last output of the pyramid for "p5" (Tian et al. 2019, "FCOS", section 3.2).

    Raises UserError for a `bottom_up` that lacks a stride.
    """

    def __init__(
        self,
        *,
        bottom_up: BACKBONE,
        width: Count,
        finest: Literal[4, 8, 16],
        coarsest: Literal[32, 64, 128],
        coarser: Literal["pool", "c5", "p5"],
        norm: NormOrNone = "none",
        momentum: Momentum = 0.9,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.bottom_up = build_backbone(bottom_up, dtype=dtype, rngs=rngs)
        channels = self.bottom_up.channels
        self.last = max(channels)
        strides = [finest << step for step in range((coarsest // finest).bit_length())]
        self.merged = tuple(stride for stride in strides if stride <= self.last)
        lacking = [stride for stride in self.merged if stride not in channels]
        if lacking or not self.merged:
            raise UserError(
                f"config.model.backbone.bottom_up: {bottom_up['name']} has features of the strides {sorted(channels)}, and an "
                f"FPN with finest={finest} also needs {lacking or [finest]}; choose another bottom_up, or another finest"
            )
        self.added = tuple(stride for stride in strides if stride > self.last)
        self.width, self.coarser = width, coarser

        # Uniform with the variance 1 / fan-in, as in the authors' Detectron.
        conv = partial(Conv, kernel_init=nnx.initializers.lecun_uniform(), bias=True, dtype=dtype, rngs=rngs)
        for stride in self.added if coarser != "pool" else ():
            first = stride == self.added[0] and coarser == "c5"
            in_channels = channels[self.last] if first else width
            setattr(self, f"extra_{stride}", conv(in_channels, width, 3, stride=2, padding=HALVING))
        self.normalised = norm != "none"
        if self.normalised:
            make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
            conv = partial(ConvNorm, norm=make_norm, dtype=dtype, rngs=rngs)
        for stride in self.merged:
            setattr(self, f"lateral_{stride}", conv(channels[stride], width, 1))
            setattr(self, f"output_{stride}", conv(width, width, 3))

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the features by stride."""
        return dict.fromkeys((*self.merged, *self.added), self.width)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[int, jax.Array]:
        features = self.bottom_up(images, train=train, rngs=rngs)
        own = dict(train=train) if self.normalised else {}
        merged, outputs = None, {}
        for stride in reversed(self.merged):
            lateral = getattr(self, f"lateral_{stride}")(features[stride], **own)
            merged = lateral if merged is None else lateral + double(merged, lateral.shape[1:3])
            outputs[stride] = keep(getattr(self, f"output_{stride}")(merged, **own))
        outputs = {stride: outputs[stride] for stride in self.merged}

        x = features[self.last] if self.coarser == "c5" else outputs[self.merged[-1]]
        for number, stride in enumerate(self.added):
            if self.coarser == "pool":
                x = x[:, ::2, ::2]
            else:
                x = getattr(self, f"extra_{stride}")(x if number == 0 else jax.nn.relu(x))
            outputs[stride] = x
        return outputs

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair our arrays with the backbone of a torchvision detector, or only `bottom_up`'s with its own file.

        Raises UserError for a file with an FPN if the convolutions of this FPN have a normalisation.
        """
        keys = frozenset(keys)
        if not any(key.startswith(FPN_KEYS) for key in keys):
            return self.bottom_up.pretrained(keys).below("bottom_up")
        if self.normalised:
            raise UserError("pretrained: the file's FPN has no normalisation; it needs model.backbone.norm='none'")
        bottom_up = self.bottom_up.pretrained(strip(keys, BODY)).named(BODY).below("bottom_up")
        return bottom_up.joined(match_fpn(keys, self.merged, self.added if self.coarser != "pool" else ()))
