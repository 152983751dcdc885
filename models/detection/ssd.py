"""SSD (Liu et al. 2016, `SSD: Single Shot MultiBox Detector`), with boxes and classes from maps of several strides."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from errors import UserError
from fields import Count, Natural, NotNegative, Positive
from models import layers
from models.backbones.vgg import REPEATS, Classifier, ConvRelu
from models.detection.weights import DEFAULT_BOXES, SSD_KEYS, SSD_MARK, match_ssd
from models.layers import Conv, Momentum, NormOrNone
from models.ops import anchors
from models.registry import BACKBONE, Dtype, Model, build_backbone
from models.weights import Weights

FIRST = 8  # stride of the finest map with boxes: conv4_3 of VGG-16
DILATION = 6  # of fc6
EPSILON = 1e-5
SMALLEST = 1e-10  # added to squared norms


class L2Norm(nnx.Module):
    """Normalisation of features [B,H,W,C] to norm 1 at each pixel, times a learned factor per channel.

    The factor starts at `scale` (section 3.1, after Liu et al. 2016, "ParseNet", 3.3), because conv4_3's features are larger
    than those of later layers.
    """

    def __init__(self, channels: int, scale: float, *, dtype: str):
        self.scale, self.dtype = nnx.Param(jnp.full(channels, scale, jnp.float32)), dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        squared_norm = jnp.sum(x * x, -1, keepdims=True)
        return (x * jax.lax.rsqrt(squared_norm + SMALLEST) * self.scale[...]).astype(self.dtype)


class SSD(Model):
    """Images [B,H,W,3] to `{"offsets": [B,A,4], "logits": [B,A,num_classes + 1]}` float32, of A default boxes.

    The logits' first class is the background. Offsets are from the boxes of `geometry`, in their order.

    `backbone` has the fields of `registry.build_backbone`; its features of stride 8 and more have default boxes. `fc` is the
    number of channels of a VGG's fc6 and fc7, which are atrous and give its stride 16 (section 3); 0 means no such layers, as
    in every other backbone. Each of `extras` adds a map: channels of a 1x1 convolution, channels of a 3x3 convolution and
    its stride, 2 (padded; a grid of half the size, rounded up) or 1 (unpadded; 2 rows and columns fewer). `norm` ("none",
    "batch" or "group") and `momentum` belong to them. `sizes` are the sizes of each map's default boxes as fractions of the
    image, and one more; `ratios` are the ratios of each map. `steps` are the pixels between the cells' centres of each map,
    () for grids that divide the image evenly. With `within`, no default box is larger than the image (see
    `models.ops.anchors.default_boxes`). `l2_norm` is the initial scale of the finest map's features (20 in the paper), 0
    for none.

    Raises UserError for fields that do not fit each other.
    """

    produces = "default boxes"
    published = "backbone"
    torchvision = SSD_KEYS

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        fc: Natural,
        extras: tuple[tuple[Count, Count, Literal[1, 2]], ...],
        sizes: tuple[Positive, ...],
        ratios: tuple[tuple[Positive, ...], ...],
        l2_norm: NotNegative,
        norm: NormOrNone,
        momentum: Momentum,
        dtype: Dtype,
        steps: tuple[Positive, ...] = (),
        within: bool = False,
        rngs: nnx.Rngs,
    ):
        if fc and backbone.get("name") != "vgg":
            raise UserError(f"model.fc={fc}: backbone {backbone.get('name')!r} has no fc6 and fc7; choose 0")
        decided = dict(classifier=Classifier(fc, 0.0, "SAME", DILATION)) if fc else {}
        # The stages of VGG in a whole published SSD, which is atrous, without normalisation.
        self.stages = REPEATS[backbone["layers"]] if fc and backbone["norm"] == norm == "none" else ()
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs, **decided)
        channels = self.backbone.channels
        self.strides = tuple(sorted(stride for stride in channels if stride >= FIRST))
        if not self.strides or self.strides[0] != FIRST:
            raise UserError(f"model.backbone: SSD needs features of stride {FIRST}, not {list(channels)} alone")
        maps = [channels[stride] for stride in self.strides]
        self.l2_norm = L2Norm(maps[0], l2_norm, dtype=dtype) if l2_norm else nnx.data(None)

        make_norm = partial(layers.norm, norm, momentum=momentum, epsilon=EPSILON, dtype=dtype)
        block = partial(ConvRelu, norm=None if norm == "none" else make_norm, dtype=dtype, rngs=rngs)
        for number, (middle, out, stride) in enumerate(extras, 1):
            setattr(self, f"extra_{number}_1", block(maps[-1], middle, 1, padding="SAME"))
            # Padded on both sides, as in Caffe: the cells' centres stay at the centres of the default boxes.
            padding = ((1, 1), (1, 1)) if stride == 2 else "VALID"
            setattr(self, f"extra_{number}_2", block(middle, out, 3, stride=stride, padding=padding))
            maps.append(out)
        self.extras = tuple(stride for _, _, stride in extras)

        if len(ratios) != len(maps) or len(sizes) != len(maps) + 1:
            raise UserError(
                f"model: there are {len(maps)} maps with default boxes, {len(self.strides)} of the backbone and "
                f"{len(extras)} of model.extras; they need as many model.ratios, not {len(ratios)}, "
                f"and one more of model.sizes, not {len(sizes)}"
            )
        if steps and len(steps) != len(maps):
            raise UserError(f"model.steps={tuple(steps)}: there are {len(maps)} maps; give a step for each, or ()")
        self.num_classes, self.sizes, self.ratios = num_classes, tuple(sizes), tuple(map(tuple, ratios))
        self.steps, self.within = tuple(steps), within
        head = partial(Conv, size=3, bias=True, dtype=dtype, rngs=rngs)
        self.shapes = tuple(2 + 2 * len(own) for own in ratios)  # per cell: two squares, each ratio and its inverse
        for level, (in_channels, shapes) in enumerate(zip(maps, self.shapes, strict=True)):
            setattr(self, f"offsets_{level}", head(in_channels, 4 * shapes))
            setattr(self, f"logits_{level}", head(in_channels, (num_classes + 1) * shapes))

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        features = self.backbone(images, train=train, rngs=rngs)
        maps = [features[stride] for stride in self.strides]
        x = maps[-1]
        if self.l2_norm is not None:
            maps[0] = self.l2_norm(maps[0])
        for number in range(1, len(self.extras) + 1):
            for part in (1, 2):
                x = getattr(self, f"extra_{number}_{part}")(x, train=train)
            maps.append(x)
        offsets = [getattr(self, f"offsets_{level}")(x) for level, x in enumerate(maps)]
        logits = [getattr(self, f"logits_{level}")(x) for level, x in enumerate(maps)]
        return {"offsets": _join(offsets, 4), "logits": _join(logits, self.num_classes + 1)}

    def grids(self, size: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Return (rows, columns) of each map for images of `size` (height, width).

        Raises UserError for images that are so small that a map has no cells.
        """
        grids = [tuple(-(-side // stride) for side in size) for stride in self.strides]
        for stride in self.extras:
            grids.append(tuple(-(-side // 2) if stride == 2 else side - 2 for side in grids[-1]))
        if min(grids[-1]) < 1:
            raise UserError(f"model.extras: images of {size[0]}x{size[1]} are too small; their maps would be {grids}")
        return tuple(grids)

    def geometry(self, size: Sequence[int], **fields: Any) -> dict[str, np.ndarray]:
        """Return the default boxes as `anchors` [A,4] float32, in pixels of an image of `size` (height, width).

        `fields` replace the model's own, to try boxes without building another model. Raises UserError as `grids`.
        """
        own: dict[str, Any] = {"sizes": self.sizes, "ratios": self.ratios, "steps": self.steps, "within": self.within}
        return {"anchors": anchors.default_boxes(size, self.grids(size), **own | fields)}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair all our arrays with those of torchvision's ssd300_vgg16, or the backbone's with a backbone's file.

        Raises UserError for a whole detector's file unless this detector has an atrous VGG without normalisation.
        """
        keys = frozenset(keys)
        if SSD_MARK not in keys:
            return super().pretrained(keys)
        if not self.stages:
            raise UserError(
                "pretrained: the file holds a whole SSD on VGG; it needs model.backbone.name='vgg' with model.fc, and "
                "'none' for model.norm and model.backbone.norm"
            )
        return match_ssd(self.stages, self.shapes, self.l2_norm is not None)

    def caution(self, keys: Iterable[str]) -> str:
        """Return a warning if a whole detector's file was trained with other default boxes, which it does not contain."""
        if SSD_MARK not in keys or (self.sizes, self.steps, self.within) == DEFAULT_BOXES:
            return ""
        sizes, steps, within = DEFAULT_BOXES
        return (
            "the default boxes are not those of torchvision's ssd300_vgg16, so that boxes are right only after training; "
            f"its own have model.sizes={sizes}, model.steps={steps}, model.within={within}"
        )


def _join(maps: Sequence[jax.Array], values: int) -> jax.Array:
    """Join maps [B,h,w,shapes * values] to [B,A,values] float32, in the order level, row, column, shape."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, values) for x in maps], 1).astype(jnp.float32)
