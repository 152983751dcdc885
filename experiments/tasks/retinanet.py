"""RetinaNet's loss (Lin et al. 2017, "Focal Loss for Dense Object Detection"): every anchor counts, easy ones hardly."""

from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.tasks.base import Arrays, Mean, Means
from experiments.tasks.dense import (
    ANCHOR_ADVICE,
    Geometry,
    Levels,
    PyramidDetection,
    Targets,
    check_thresholds,
    join,
    match_grids,
)
from experiments.tasks.detection_losses import sigmoid_focal, smooth_l1
from experiments.tasks.fitting import propose_anchors
from fields import NotNegative, Share
from input_pipeline.batch import Size
from models.ops import boxes as ops
from models.ops import coding

VARIANCES = (1.0, 1.0, 1.0, 1.0)


class RetinaNetTask(PyramidDetection):
    """Sums over anchors, divided by the number of those with an object in the whole batch, and by 1 where there is none."""

    reads = "anchors of a pyramid"
    advice = ANCHOR_ADVICE

    def __init__(
        self,
        *,
        positive_iou: Share,
        negative_iou: Share,
        low_quality: bool,
        alpha: Share,
        gamma: NotNegative,
        box_loss: Literal["smooth_l1", "giou"],
        beta: NotNegative,
        box_weight: NotNegative,
        **detection,
    ):
        """Takes its own fields, and those of Detection.

        An anchor with an IoU of `positive_iou` or more is an object's, one below `negative_iou` is background, and one
        between counts nowhere; with `low_quality` each object's best anchor is its own at any IoU. `alpha` and `gamma` are
        those of the focal loss. `box_loss` is a smooth L1 of the offsets that bends at `beta` (0: L1), or 1 - GIoU of the
        decoded boxes; `box_weight` is the factor on it.

        Raises UserError for a negative_iou above positive_iou.
        """
        super().__init__(**detection)
        check_thresholds(negative_iou, positive_iou)
        self.positive_iou, self.negative_iou, self.low_quality = positive_iou, negative_iou, low_quality
        self.alpha, self.gamma = alpha, gamma
        self.box_loss, self.beta, self.box_weight = box_loss, beta, box_weight

    def loss(self, outputs: Levels, batch: Arrays) -> tuple[Means, Means]:
        """The focal loss of all classes, and the boxes' loss with the factor `box_weight` (section 4.1)."""
        own = join(outputs, batch)
        positive, counted, classes, boxes, _ = self.targets(own["anchors"], batch)

        truth = jax.nn.one_hot(classes, own["logits"].shape[-1]) * positive[..., None]
        focal = sigmoid_focal(own["logits"], truth, alpha=self.alpha, gamma=self.gamma)
        classification = jnp.sum(focal, where=counted[..., None])

        # where, not a product with the mask: far from every object offsets may be of any size.
        chosen = positive[..., None]
        if self.box_loss == "giou":
            decoded = coding.decode(jnp.where(chosen, own["offsets"], 0.0), own["anchors"][None], variances=VARIANCES)
            localisation = jnp.sum(1.0 - ops.giou(decoded, boxes), where=positive)
        else:
            targets = coding.encode(boxes, own["anchors"][None], variances=VARIANCES)
            localisation = jnp.sum(smooth_l1(jnp.where(chosen, own["offsets"] - targets, 0.0), self.beta))

        matched = jnp.sum(positive, dtype=jnp.float32)
        terms = {
            "classification": Mean(classification, matched, floor=1.0),
            "localisation": Mean(localisation, matched, self.box_weight, floor=1.0),
        }
        return terms, {"matched": self.mean_per_image(matched, batch), "boxes_lost": self.boxes_lost(batch)}

    def targets(self, anchors: jax.Array, batch: Arrays) -> Targets:
        """The targets of the anchors [A,4] for each image of a batch."""
        matching = dict(low=self.negative_iou, high=self.positive_iou, low_quality=self.low_quality)
        return self.assign(anchors, batch, **matching)

    def decode(self, outputs: Levels, size: Size) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        levels = zip(outputs["offsets"], outputs["anchors"], strict=True)
        boxes = tuple(coding.decode(offsets, own.reshape(1, -1, 4), variances=VARIANCES) for offsets, own in levels)
        return boxes, tuple(map(jax.nn.sigmoid, outputs["logits"]))

    def propose_fields(
        self, model: nnx.Module, boxes: np.ndarray, weights: np.ndarray, size: Size
    ) -> Iterator[dict[str, Any]]:
        """Scale, octaves and ratios of the anchors."""
        return propose_anchors(boxes, weights, model.strides, model.octaves, spans=False)

    def matchable(self, geometry: Geometry, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Those that an anchor overlaps by config.task.positive_iou."""
        return match_grids(boxes, geometry["anchors"], self.positive_iou)
