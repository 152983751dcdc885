"""Faster R-CNN (Ren et al. 2015), on one map or on a pyramid (Lin et al. 2017, "Feature Pyramid Networks", section 4)."""

from collections.abc import Iterable
from typing import Literal

import jax
import numpy as np
from flax import nnx

from errors import UserError
from fields import Count, Positive
from models.backbones.weights import match_vgg_head
from models.detection.weights import RPN_MARK, match_backbone, match_faster_rcnn, order_anchors
from models.heads.box import BoxHead
from models.heads.dense import pyramid_of
from models.heads.rpn import RPN
from models.layers import Rate
from models.ops import anchors
from models.ops.anchors import Placement
from models.ops.roi_align import roi_align_pyramid
from models.ops.roi_pool import roi_pool
from models.registry import BACKBONE, Dtype, Model, build_backbone
from models.weights import Weights

Features = dict[int, jax.Array]
SIZE = (7, 7)  # of a region's features
SAMPLES = 2  # places of a bin, along each side
POOLED = 4  # levels that regions are taken from, the finest ones: FPN's P6 is for proposals alone


class FasterRCNN(Model):
    """Images [B,H,W,3] in three stages, which the task calls: `features`, `propose`, `classify`. `__call__` is the first two.

    `strides` are those of the `backbone`'s features that are used, all where it is empty: one of any backbone, as published
    (VGG-16's conv5_3, of stride 16), or several of the same channels, such as those of "fpn". All of them have anchors,
    whose fields `scale`, `octaves`, `span`, `ratios` and `placement` are those of `models.ops.anchors.pyramid`. The finest
    four levels have regions, each taken from one of them by its size (section 4.2 of Lin et al.): by RoIAlign, or with the
    `pooling` "max" by RoI max pooling of a single level, as published. `fc` is the width of the head's two fully connected
    layers, and `dropout` the share of their outputs that training leaves out.

    Raises UserError for a stride that the backbone does not have, for channels that differ, and for max pooling of several
    levels.
    """

    produces = "proposals and regions"
    published = "backbone"

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
        pooling: Literal["align", "max"] = "align",
        fc: Count,
        dropout: Rate = 0.0,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        self.strides, width = pyramid_of(self.backbone, backbone["name"], strides)
        if pooling == "max" and len(self.strides) > 1:
            raise UserError(
                f"config.model.pooling='max' is of one level, not of the strides {self.strides}; choose one in "
                "config.model.strides, or pooling='align'"
            )
        self.scale, self.octaves, self.span = scale, octaves, span
        self.ratios, self.placement, self.pooling = tuple(ratios), placement, pooling
        self.rpn = RPN(width, octaves * len(ratios), dtype=dtype, rngs=rngs)
        self.box_head = BoxHead(width, SIZE, fc=fc, dropout=dropout, num_classes=num_classes, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> dict[str, tuple[jax.Array, ...]]:
        return self.propose(self.features(images, train=train, rngs=rngs))

    def features(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        """Features {stride: [B,h,w,C]} of images [B,H,W,3]."""
        return self.backbone(images, train=train, rngs=rngs)

    def propose(self, features: Features) -> dict[str, tuple[jax.Array, ...]]:
        """For each level `objectness` [B,A], logits, and `shifts` [B,A,4], offsets (ty, tx, th, tw) from the anchors."""
        objectness, shifts = self.rpn([features[stride] for stride in self.strides])
        return {"objectness": objectness, "shifts": shifts}

    def classify(
        self, features: Features, regions: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> dict[str, jax.Array]:
        """`logits` [B,R,1+C] of regions [B,R,4], yxyx pixels, background first, and `offsets` [B,R,1+C,4] from the regions."""
        logits, offsets = self.box_head(self.align(features, regions, SIZE), train=train, rngs=rngs)
        shape = regions.shape[:2]
        return {
            "logits": logits.reshape(*shape, *logits.shape[1:]),
            "offsets": offsets.reshape(*shape, *offsets.shape[1:]),
        }

    def align(self, features: Features, regions: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Features [B*R,*size,C] of regions [B,R,4], each from the level of its size."""
        if self.pooling == "max":
            (stride,) = self.strides
            found = roi_pool(features[stride], regions, stride=stride, size=size)
        else:
            levels = {stride: features[stride] for stride in self.strides[:POOLED]}
            found = roi_align_pyramid(levels, regions, size=size, samples=SAMPLES, aligned=False)
        return found.reshape(-1, *found.shape[2:])

    def geometry(self, size: tuple[int, int]) -> dict[str, tuple[np.ndarray, ...]]:
        """`anchors`: those of each level [h,w,k,4] float32 in pixels of an image of `size` (height, width)."""
        own = (self.scale, self.octaves, self.ratios, self.placement, self.span)
        return {"anchors": anchors.pyramid(size, self.strides, *own)}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pairs all our arrays with those of torchvision's fasterrcnn_resnet50_fpn, or the backbone's with a backbone's file.

        A file of VGG gives its fc6 and fc7 to the head of a single level too, where that has their size (Girshick 2015, "Fast
        R-CNN", section 2.2). Raises UserError for a whole detector where the anchors are not its.
        """
        keys = frozenset(keys)
        if not any(key.startswith(RPN_MARK) for key in keys):
            weights = super().pretrained(keys)
            if len(self.strides) > 1:
                return weights
            return weights.joined(match_vgg_head(weights.unused, self.box_head.fc6.kernel.shape[2:]).below("box_head"))
        order = order_anchors(self.octaves, self.ratios, self.placement, published=1)
        return match_backbone(self.backbone, keys).joined(match_faster_rcnn(keys, order, SIZE))
