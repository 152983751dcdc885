"""RetinaNet's loss, in which easy anchors weigh little (Lin et al. 2017, "Focal Loss for Dense Object Detection")."""

from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from experiments.tasks.base import ArrayLike, Arrays, Mean, Means
from experiments.tasks.dense import (
    ANCHOR_ADVICE,
    Levels,
    PyramidAnchors,
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
from models.detection.retinanet import RetinaNet
from models.ops import boxes as ops
from models.ops import coding

VARIANCES = (1.0, 1.0, 1.0, 1.0)


class RetinaNetTask(PyramidDetection[RetinaNet]):
    """Losses summed over anchors and divided by the number of anchors with an object in the global batch, at least 1."""

    reads = "pyramid anchors"
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
        """Take the fields of Detection and these.

        An anchor with an IoU of `positive_iou` or more has an object, one below `negative_iou` is background, and one
        between does not count. With `low_quality` each object also gets its best anchor, at any IoU. `alpha` and `gamma` are
        the focal loss's. `box_loss` is the smooth L1 loss of offsets, which bends at `beta` (0 for L1), or 1 - GIoU of the
        decoded boxes. `box_weight` is the factor on it.

        Raises UserError for a negative_iou above positive_iou.
        """
        super().__init__(**detection)
        check_thresholds(negative_iou, positive_iou)
        self.positive_iou, self.negative_iou, self.low_quality = positive_iou, negative_iou, low_quality
        self.alpha, self.gamma = alpha, gamma
        self.box_loss, self.beta, self.box_weight = box_loss, beta, box_weight

    def loss(self, outputs: Levels, batch: Arrays) -> tuple[Means, Means]:
        """Return the focal loss of all classes, and the boxes' loss with the factor `box_weight` (section 4.1)."""
        own = join(outputs, batch)
        positive, counted, classes, boxes, _ = self.targets(own["anchors"], batch)

        truth = jax.nn.one_hot(classes, own["logits"].shape[-1]) * positive[..., None]
        focal = sigmoid_focal(own["logits"], truth, alpha=self.alpha, gamma=self.gamma)
        classification = jnp.sum(focal, where=counted[..., None])

        # where, not a product with the mask: far from every object the offsets may have any size.
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

    def targets(self, anchors: Float[ArrayLike, "a 4"], batch: Arrays) -> Targets:
        """Return the targets of the anchors for each image of a batch."""
        return self.assign(anchors, batch, low=self.negative_iou, high=self.positive_iou, low_quality=self.low_quality)

    def decode(
        self, outputs: Levels, size: Size
    ) -> tuple[tuple[Float[Array, "b _ 4"], ...], tuple[Float[Array, "b _ c"], ...]]:
        levels = zip(outputs["offsets"], outputs["anchors"], strict=True)
        boxes = tuple(coding.decode(offsets, own.reshape(1, -1, 4), variances=VARIANCES) for offsets, own in levels)
        return boxes, tuple(map(jax.nn.sigmoid, outputs["logits"]))

    def propose_fields(
        self, model: RetinaNet, boxes: Float[np.ndarray, "n 4"], weights: Float[np.ndarray, " n"], size: Size
    ) -> Iterator[dict[str, Any]]:
        """Yield scale, octaves and ratios of the anchors."""
        return propose_anchors(boxes, weights, model.strides, model.octaves, spans=False)

    def matchable(
        self, geometry: PyramidAnchors, boxes: Float[np.ndarray, "m 4"], size: Size
    ) -> Bool[np.ndarray, " m"]:
        """Return which boxes have an IoU of config.task.positive_iou or more with an anchor."""
        return match_grids(boxes, geometry["anchors"], self.positive_iou)
