"""RetinaNet (Lin et al. 2017, "Focal Loss for Dense Object Detection"), with anchors on every level of a pyramid."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from fields import Count, Positive
from models.detection.weights import PYRAMID_MARK, RETINANET_KEYS, match_backbone, match_retinanet, order_anchors
from models.heads.dense import Tower, classifier, flatten, predictor, pyramid_of
from models.layers import Momentum, NormOrNone
from models.ops import anchors
from models.ops.anchors import Placement
from models.registry import BACKBONE, Dtype, Model, build_backbone
from models.weights import Weights


class RetinaNet(Model):
    """Images [B,H,W,3] to `{"logits": ([B,A,num_classes], ...), "offsets": ([B,A,4], ...)}` float32, an array per level.

    There is no background class; logits are binary. Offsets (ty, tx, th, tw) are from the anchors of
    `geometry`, in their order.

    The features of `backbone` must have the same channels at all strides, as those of "fpn". All strides have anchors;
    `models.ops.anchors.pyramid` describes their fields `scale`, `octaves`, `ratios` and `placement`. `tower` is the number of
    convolutions before the last one of each branch, and `norm` and `momentum` belong to them (section 4).

    Raises UserError for a backbone whose channels differ.
    """

    produces = "pyramid anchors"
    published = "backbone"
    torchvision = RETINANET_KEYS

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        tower: Count,
        norm: NormOrNone,
        momentum: Momentum,
        scale: Positive,
        octaves: Count,
        ratios: tuple[Positive, ...],
        placement: Placement,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        self.tower, self.norm = tower, norm
        self.strides, width = pyramid_of(self.backbone, backbone["name"])
        self.scale, self.octaves, self.ratios = scale, octaves, tuple(ratios)
        self.placement: Placement = placement
        self.num_classes, shapes = num_classes, octaves * len(ratios)
        make_tower = partial(
            Tower, width, tower, levels=len(self.strides), norm=norm, momentum=momentum, dtype=dtype, rngs=rngs
        )
        self.class_tower, self.box_tower = make_tower(), make_tower()
        self.logits = classifier(width, shapes * num_classes, dtype=dtype, rngs=rngs)
        self.offsets = predictor(width, shapes * 4, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> dict[str, tuple[jax.Array, ...]]:
        features = self.backbone(images, train=train, rngs=rngs)
        maps = [features[stride] for stride in self.strides]
        classes, boxes = self.class_tower(maps, train=train), self.box_tower(maps, train=train)
        return {
            "logits": tuple(flatten(self.logits(x), self.num_classes) for x in classes),
            "offsets": tuple(flatten(self.offsets(x), 4) for x in boxes),
        }

    def geometry(self, size: Sequence[int], **fields: Any) -> dict[str, tuple[np.ndarray, ...]]:
        """Return the `anchors` of each level, [h,w,k,4] float32 in pixels of an image of `size` (height, width).

        `fields` replace the model's own, to try anchors without building another model.
        """
        own: dict[str, Any] = {"scale": self.scale, "octaves": self.octaves, "ratios": self.ratios}
        own["placement"] = self.placement
        return {"anchors": anchors.pyramid(size, self.strides, **own | fields)}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair all our arrays with those of torchvision's retinanet_resnet50_fpn, or the backbone's with a backbone's file.

        Raises UserError for a whole detector's file if the anchors or a normalisation differ.
        """
        keys = frozenset(keys)
        if PYRAMID_MARK not in keys:
            return super().pretrained(keys)
        order = order_anchors(self.octaves, self.ratios, self.placement)
        return match_backbone(self.backbone, keys).joined(match_retinanet(keys, self.tower, self.norm, order))
