"""SPP-net (He et al. 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks"), where regions share fixed features."""

import jax
from flax import nnx

from fields import Count
from models.detection.regions import Features, RegionModel
from models.heads.box import HEADS, Classifier
from models.layers import Rate
from models.ops.spatial_pyramid import LEVELS, spatial_pyramid_pool
from models.registry import BACKBONE, Dtype

BINS = sum(level * level for level in LEVELS)


class SPPNet(RegionModel):
    """A RegionModel that pools regions of one level, `stride`, in a spatial pyramid of 1, 2, 3 and 6 bins a side.

    As published, the layers below the pooling do not change (section 4.1): no gradient reaches the backbone. The head is
    Fast R-CNN's, with `fc` outputs per layer, instead of the paper's SVMs and its separate regression of boxes.

    Raises UserError for a stride that the backbone does not have.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        stride: Count,
        fc: Count,
        dropout: Rate = 0.0,
        head: Classifier = "softmax",
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        width = self.make_backbone(backbone, (stride,), dtype=dtype, rngs=rngs)
        self.box_head = HEADS[head](
            width, (1, BINS), fc=fc, dropout=dropout, num_classes=num_classes, dtype=dtype, rngs=rngs
        )

    def features(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> Features:
        """Return the features `{stride: [B,h,w,C]}` of images [B,H,W,3], without a gradient and with stored statistics."""
        return jax.lax.stop_gradient(self.backbone(images, train=False))

    def extract(self, features: Features, regions: jax.Array) -> jax.Array:
        """Return the features [B*R,1,50,C] of regions [B,R,4]."""
        (stride,) = self.strides
        found = spatial_pyramid_pool(features[stride], regions, stride=stride)
        return found.reshape(-1, 1, *found.shape[2:])
