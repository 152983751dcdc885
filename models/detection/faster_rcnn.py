"""Faster R-CNN (Ren et al. 2015), on one map or on a pyramid (Lin et al. 2017, "Feature Pyramid Networks", section 4)."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from fields import Count, Positive
from models.detection.fast_rcnn import SIZE, PooledModel, Pooling
from models.detection.regions import Features
from models.detection.weights import FASTER_RCNN_KEYS, RPN_MARK, match_backbone, match_faster_rcnn, order_anchors
from models.heads.box import BoxHead
from models.heads.rpn import RPN
from models.layers import Rate
from models.ops import anchors
from models.ops.anchors import Placement
from models.registry import BACKBONE, Dtype
from models.weights import Weights


class FasterRCNN(PooledModel):
    """A PooledModel that proposes its regions itself, by `propose` between the other stages. `__call__` runs the first two.

    All levels have anchors; `models.ops.anchors.pyramid` describes their fields `scale`, `octaves`, `span`, `ratios` and
    `placement`. The other fields are PooledModel's.

    Raises UserError as `PooledModel.make_pooled_backbone`.
    """

    produces = "proposals and regions"
    torchvision = FASTER_RCNN_KEYS

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        strides: tuple[Count, ...] = (),
        scale: Positive,
        octaves: Count,
        span: Positive = 1.0,
        ratios: tuple[Positive, ...],
        placement: Placement,
        pooling: Pooling = "align",
        fc: Count,
        dropout: Rate = 0.0,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        width = self.make_pooled_backbone(backbone, strides, pooling, dtype=dtype, rngs=rngs)
        self.scale, self.octaves, self.span = scale, octaves, span
        self.ratios = tuple(ratios)
        self.placement: Placement = placement
        self.rpn = RPN(width, octaves * len(ratios), dtype=dtype, rngs=rngs)
        self.box_head = BoxHead(width, SIZE, fc=fc, dropout=dropout, num_classes=num_classes, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> dict[str, tuple[jax.Array, ...]]:
        return self.propose(self.features(images, train=train, rngs=rngs))

    def propose(self, features: Features) -> dict[str, tuple[jax.Array, ...]]:
        """Return logits `objectness` [B,A] and `shifts` [B,A,4], offsets (ty, tx, th, tw) from the anchors, of each level."""
        objectness, shifts = self.rpn([features[stride] for stride in self.strides])
        return {"objectness": objectness, "shifts": shifts}

    def geometry(self, size: Sequence[int], **fields: Any) -> dict[str, tuple[np.ndarray, ...]]:
        """Return the `anchors` of each level, [h,w,k,4] float32 in pixels of an image of `size` (height, width).

        `fields` replace the model's own, to try anchors without building another model.
        """
        own: dict[str, Any] = {"scale": self.scale, "octaves": self.octaves, "ratios": self.ratios}
        own |= {"placement": self.placement, "span": self.span}
        return {"anchors": anchors.pyramid(size, self.strides, **own | fields)}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair all our arrays with those of torchvision's fasterrcnn_resnet50_fpn, or a part as RegionModel.

        Raises UserError for a whole detector's file if the anchors differ.
        """
        keys = frozenset(keys)
        if not any(key.startswith(RPN_MARK) for key in keys):
            return super().pretrained(keys)
        order = order_anchors(self.octaves, self.ratios, self.placement, published=1)
        return match_backbone(self.backbone, keys).joined(match_faster_rcnn(keys, order, SIZE))
