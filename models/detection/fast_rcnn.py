"""Fast R-CNN (Girshick 2015, "Fast R-CNN").

Regions share an image's features, and all layers learn in one stage.
"""

from typing import Literal

import jax
from flax import nnx

from errors import UserError
from fields import Count
from models.detection.regions import Features, RegionModel
from models.heads.box import HEADS, Classifier
from models.layers import Rate
from models.ops.roi_align import roi_align_pyramid
from models.ops.roi_pool import roi_pool
from models.registry import BACKBONE, Dtype

Pooling = Literal["align", "max"]
SIZE = (7, 7)  # of a region's features
SAMPLES = 2  # places of a bin, along each side
POOLED = 4  # the finest levels, which regions are taken from; FPN's P6 is only for proposals


class PooledModel(RegionModel):
    """A RegionModel that pools a region's features from those of the image.

    `strides` are the strides of the `backbone`'s features that are used, all if it is empty: one of any backbone, as published
    (VGG-16's conv5_3, of stride 16), or several with the same channels, such as those of "fpn". Each region is taken from one
    of the finest four, by its size (Lin et al. 2017, "Feature Pyramid Networks", section 4.2), by RoIAlign. With the
    `pooling` "max" it is taken from a single level by RoI max pooling, as published. `fc` is the width of the head's two
    fully connected layers, and `dropout` the share of their outputs that training drops.
    """

    def make_pooled_backbone(
        self, backbone: dict, strides: tuple[int, ...], pooling: Pooling, *, dtype: str, rngs: nnx.Rngs
    ) -> int:
        """Make the backbone by `make_backbone`, and return its channels.

        Raises UserError as `make_backbone`, and for max pooling of several levels.
        """
        width, self.pooling = self.make_backbone(backbone, strides, dtype=dtype, rngs=rngs), pooling
        if pooling == "max" and len(self.strides) > 1:
            raise UserError(
                f"config.model.pooling='max' needs one level, not the strides {self.strides}; choose one in "
                "config.model.strides, or pooling='align'"
            )
        return width

    def extract(self, features: Features, regions: jax.Array) -> jax.Array:
        return self.align(features, regions, SIZE)

    def align(self, features: Features, regions: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Return the features [B*R,*size,C] of regions [B,R,4], each from the level for its size."""
        if self.pooling == "max":
            (stride,) = self.strides
            found = roi_pool(features[stride], regions, stride=stride, size=size)
        else:
            levels = {stride: features[stride] for stride in self.strides[:POOLED]}
            found = roi_align_pyramid(levels, regions, size=size, samples=SAMPLES, aligned=False)
        return found.reshape(-1, *found.shape[2:])


class FastRCNN(PooledModel):
    """A PooledModel whose regions come from outside, such as stored proposals.

    Raises UserError as `PooledModel.make_pooled_backbone`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        strides: tuple[Count, ...] = (),
        pooling: Pooling = "align",
        fc: Count,
        dropout: Rate = 0.0,
        head: Classifier = "softmax",
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        width = self.make_pooled_backbone(backbone, strides, pooling, dtype=dtype, rngs=rngs)
        self.box_head = HEADS[head](
            width, SIZE, fc=fc, dropout=dropout, num_classes=num_classes, dtype=dtype, rngs=rngs
        )
