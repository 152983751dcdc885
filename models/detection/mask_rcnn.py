"""Mask R-CNN (He et al. 2017, "Mask R-CNN"), which is Faster R-CNN on a pyramid with a mask for each region."""

from collections.abc import Iterable

import jax
from flax import nnx

from fields import Count
from models.detection.faster_rcnn import FasterRCNN
from models.detection.regions import Features
from models.detection.weights import MASK_MARK, MASK_RCNN_KEYS, match_mask_rcnn
from models.heads.mask import MaskHead
from models.registry import Dtype
from models.weights import Weights

SIZE = (14, 14)  # of a region's features for its mask, whose sides are twice as long


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a fourth stage, `segment`, whose head has `mask_depth` convolutions of `mask_width` channels.

    The other fields are FasterRCNN's.
    """

    produces = "proposals, regions and masks"
    torchvision = MASK_RCNN_KEYS

    def __init__(
        self, *, num_classes: int, mask_depth: Count, mask_width: Count, dtype: Dtype, rngs: nnx.Rngs, **detector
    ):
        super().__init__(num_classes=num_classes, dtype=dtype, rngs=rngs, **detector)
        channels = self.backbone.channels[self.strides[0]]
        self.mask_head = MaskHead(
            channels, depth=mask_depth, width=mask_width, num_classes=num_classes, dtype=dtype, rngs=rngs
        )

    def segment(self, features: Features, regions: jax.Array) -> jax.Array:
        """Return logits [B,R,28,28,1+C] of the masks of regions [B,R,4], over each region's box, background first."""
        logits = self.mask_head(self.align(features, regions, SIZE))
        return logits.reshape(*regions.shape[:2], *logits.shape[1:])

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair all our arrays with those of torchvision's maskrcnn_resnet50_fpn, or a part with a file of that part.

        Such a file belongs to a Faster R-CNN or to a backbone. Raises UserError as FasterRCNN.pretrained.
        """
        keys = frozenset(keys)
        masks = frozenset(key for key in keys if key.startswith(MASK_MARK))
        weights = super().pretrained(keys - masks)
        return weights.joined(match_mask_rcnn(keys, self.mask_head.depth)) if masks else weights
