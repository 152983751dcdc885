"""Fast R-CNN (Girshick 2015, "Fast R-CNN"): one network for an image, and a head for each of its regions."""

from collections.abc import Iterable
from typing import Literal

import jax
import numpy as np
from flax import nnx

from errors import UserError
from fields import Count
from models.backbones.weights import match_vgg_head
from models.heads.box import BoxHead
from models.heads.dense import pyramid_of
from models.layers import Rate
from models.ops.roi_align import roi_align_pyramid
from models.ops.roi_pool import roi_pool
from models.registry import BACKBONE, Dtype, Model, build_backbone
from models.weights import Weights

Features = dict[int, jax.Array]
Pooling = Literal["align", "max"]
SIZE = (7, 7)  # of a region's features
SAMPLES = 2  # places of a bin, along each side
POOLED = 4  # levels that regions are taken from, the finest ones: FPN's P6 is for proposals alone


class RegionModel(Model):
    """Images [B,H,W,3] in stages, which the task calls: `features` of a whole image, then `classify` of its regions.

    `strides` are those of the `backbone`'s features that are used, all where it is empty: one of any backbone, as published
    (VGG-16's conv5_3, of stride 16), or several of the same channels, such as those of "fpn". Each region is taken from one
    of the finest four by its size (Lin et al. 2017, "Feature Pyramid Networks", section 4.2): by RoIAlign, or with the
    `pooling` "max" by RoI max pooling of a single level, as published. `fc` is the width of the head's two fully connected
    layers, and `dropout` the share of their outputs that training leaves out.
    """

    published = "backbone"

    def make_backbone(
        self, backbone: dict, strides: tuple[int, ...], pooling: str, *, dtype: str, rngs: nnx.Rngs
    ) -> int:
        """Makes the backbone; returns the channels of its features.

        Raises UserError for a stride that the backbone does not have, for channels that differ, and for max pooling of
        several levels.
        """
        self.backbone, self.pooling = build_backbone(backbone, dtype=dtype, rngs=rngs), pooling
        self.strides, width = pyramid_of(self.backbone, backbone["name"], strides)
        if pooling == "max" and len(self.strides) > 1:
            raise UserError(
                f"config.model.pooling='max' is of one level, not of the strides {self.strides}; choose one in "
                "config.model.strides, or pooling='align'"
            )
        return width

    def features(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        """Features {stride: [B,h,w,C]} of images [B,H,W,3]."""
        return self.backbone(images, train=train, rngs=rngs)

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

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pairs the backbone's arrays with those of a backbone's file.

        A file of VGG gives its fc6 and fc7 to the head of a single level too, where that has their size (section 2.2).
        """
        weights = super().pretrained(frozenset(keys))
        if len(self.strides) > 1:
            return weights
        return weights.joined(match_vgg_head(weights.unused, self.box_head.fc6.kernel.shape[2:]).below("box_head"))


class FastRCNN(RegionModel):
    """A RegionModel whose regions come from elsewhere, such as stored proposals. `__call__` is the first stage."""

    produces = "regions"

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        strides: tuple[Count, ...] = (),
        pooling: Pooling = "align",
        fc: Count,
        dropout: Rate = 0.0,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        width = self.make_backbone(backbone, strides, pooling, dtype=dtype, rngs=rngs)
        self.box_head = BoxHead(width, SIZE, fc=fc, dropout=dropout, num_classes=num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        return self.features(images, train=train, rngs=rngs)

    def geometry(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Nothing: no box of the model's own stands anywhere."""
        return {}
