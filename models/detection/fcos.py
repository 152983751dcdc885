"""FCOS (Tian et al. 2019, `FCOS: Fully Convolutional One-Stage Object Detection`), with boxes from points, not anchors."""

from collections.abc import Iterable, Sequence
from functools import partial

import jax
import numpy as np
from flax import nnx

from fields import Count
from models.detection.weights import FCOS_KEYS, PYRAMID_MARK, match_backbone, match_fcos
from models.heads.dense import Tower, classifier, flatten, predictor, pyramid_of
from models.layers import Momentum, NormOrNone
from models.ops import anchors
from models.ops.anchors import Placement
from models.registry import BACKBONE, Dtype, Model, build_backbone
from models.weights import Weights


class FCOS(Model):
    """Images [B,H,W,3] to predictions in float32 at each place of a pyramid.

    They are {"logits": ([B,A,num_classes], ...), "distances": ([B,A,4], ...), "centerness": ([B,A], ...)}, with an array for
    each level. There is no background class. Distances are from the place to a box's top, left, bottom and right edge, 0 or
    more, in units of the level's stride; centerness is a logit.

    The features of `backbone` must have the same channels at all strides, as those of "fpn". `tower` is the number of
    convolutions before the last one of each branch, and `norm` and `momentum` belong to them; the paper has 4 with group
    normalisation. The branch of the box predicts centerness, an improvement by the authors after publication. `placement` is
    the point of its cell where a place is (see `models.ops.anchors.pyramid`); the paper has "centres".

    Raises UserError for a backbone whose channels differ.
    """

    produces = "boxes at locations"
    published = "backbone"
    torchvision = FCOS_KEYS

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: BACKBONE,
        tower: Count,
        norm: NormOrNone,
        momentum: Momentum,
        placement: Placement,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ):
        self.backbone = build_backbone(backbone, dtype=dtype, rngs=rngs)
        self.tower, self.norm = tower, norm
        self.strides, width = pyramid_of(self.backbone, backbone["name"])
        self.num_classes = num_classes
        self.placement: Placement = placement
        make_tower = partial(
            Tower, width, tower, levels=len(self.strides), norm=norm, momentum=momentum, dtype=dtype, rngs=rngs
        )
        self.class_tower, self.box_tower = make_tower(), make_tower()
        self.logits = classifier(width, num_classes, dtype=dtype, rngs=rngs)
        self.distances = predictor(width, 4, dtype=dtype, rngs=rngs)
        self.centerness = predictor(width, 1, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None
    ) -> dict[str, tuple[jax.Array, ...]]:
        features = self.backbone(images, train=train, rngs=rngs)
        maps = [features[stride] for stride in self.strides]
        classes, boxes = self.class_tower(maps, train=train), self.box_tower(maps, train=train)
        return {
            "logits": tuple(flatten(self.logits(x), self.num_classes) for x in classes),
            "distances": tuple(flatten(jax.nn.relu(self.distances(x)), 4) for x in boxes),
            "centerness": tuple(flatten(self.centerness(x), 1)[..., 0] for x in boxes),
        }

    def geometry(self, size: Sequence[int]) -> dict[str, tuple[np.ndarray, ...]]:
        """Return the `anchors` of each level, [h,w,1,4] float32 in pixels of an image of `size` (height, width).

        They are boxes around the places, with sides of the level's stride.
        """
        return {"anchors": anchors.pyramid(size, self.strides, 1.0, 1, (1.0,), self.placement)}

    def pretrained(self, keys: Iterable[str]) -> Weights:
        """Pair all our arrays with those of torchvision's fcos_resnet50_fpn, or the backbone's with a backbone's file.

        Raises UserError for a whole detector's file if a normalisation differs.
        """
        keys = frozenset(keys)
        if PYRAMID_MARK not in keys:
            return super().pretrained(keys)
        return match_backbone(self.backbone, keys).joined(match_fcos(keys, self.tower, self.norm))
