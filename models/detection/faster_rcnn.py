"""Faster R-CNN (Ren et al. 2015) on a pyramid of features (Lin et al. 2017, "Feature Pyramid Networks", section 4)."""

from collections.abc import Iterable

import jax
import numpy as np
from flax import nnx

from fields import Count, Positive
from models.detection.weights import RPN_MARK, match_backbone, match_faster_rcnn, order_anchors
from models.heads.box import BoxHead
from models.heads.dense import pyramid_of
from models.heads.rpn import RPN
from models.ops import anchors
from models.ops.anchors import Placement
from models.ops.roi_align import roi_align_pyramid
from models.registry import BACKBONE, Dtype, Model, build_backbone
from models.weights import Weights

Features = dict[int, jax.Array]
SIZE = (7, 7)  # of a region's features
SAMPLES = 2  # places of a bin, along each side
POOLED = 4  # levels that regions are taken from, the finest ones: FPN's P6 is for proposals alone


class FasterRCNN(Model):
    """Images [B,H,W,3] in three stages, which the task calls: `features`, `propose`, `classify`. `__call__` is the first two.

    `backbone` is one whose features have the same channels at all strides, such as "fpn". All of them have anchors, whose
    fields `scale`, `octaves`, `ratios` and `placement` are those of `models.ops.anchors.pyramid`. The finest four levels
    have regions, each taken from one of them by its size (section 4.2 of Lin et al.). `fc` is the width of the head's two
    fully connected layers.

    Raises UserError for a backbone whose channels differ.
    """

    produces = "proposals and regions"
    published = "backbone"

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        scale: Positive,
        octaves: Count,
        ratios: tuple[Positive, ...],
        placement: Placement,
        fc: Count,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        self.strides, width = pyramid_of(self.backbone, backbone["name"])
        self.scale, self.octaves, self.ratios, self.placement = scale, octaves, tuple(ratios), placement
        self.rpn = RPN(width, octaves * len(ratios), dtype=dtype, rngs=rngs)
        self.box_head = BoxHead(width, SIZE, fc=fc, num_classes=num_classes, dtype=dtype, rngs=rngs)

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

    def classify(self, features: Features, regions: jax.Array) -> dict[str, jax.Array]:
        """`logits` [B,R,1+C] of regions [B,R,4], yxyx pixels, background first, and `offsets` [B,R,1+C,4] from the regions."""
        logits, offsets = self.box_head(self.align(features, regions, SIZE))
        shape = regions.shape[:2]
        return {
            "logits": logits.reshape(*shape, *logits.shape[1:]),
            "offsets": offsets.reshape(*shape, *offsets.shape[1:]),
        }

    def align(self, features: Features, regions: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Features [B*R,*size,C] of regions [B,R,4], each from the level of its size."""
        levels = {stride: features[stride] for stride in self.strides[:POOLED]}
        found = roi_align_pyramid(levels, regions, size=size, samples=SAMPLES, aligned=False)
        return found.reshape(-1, *found.shape[2:])

    def geometry(self, size: tuple[int, int]) -> dict[str, tuple[np.ndarray, ...]]:
        """`anchors`: those of each level [h,w,k,4] float32 in pixels of an image of `size` (height, width)."""
        own = (self.scale, self.octaves, self.ratios, self.placement)
        return {"anchors": anchors.pyramid(size, self.strides, *own)}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pairs all our arrays with those of torchvision's fasterrcnn_resnet50_fpn, or the backbone's with a backbone's file.

        Raises UserError for a whole detector where the anchors are not its.
        """
        keys = frozenset(keys)
        if not any(key.startswith(RPN_MARK) for key in keys):
            return super().pretrained(keys)
        order = order_anchors(self.octaves, self.ratios, self.placement, published=1)
        return match_backbone(self.backbone, keys).joined(match_faster_rcnn(keys, order, SIZE))
