"""SSD's loss (Liu et al. 2016, section 2.2): matched default boxes, hard negatives, smooth L1 and softmax."""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.tasks.base import Arrays, Mean, Means
from experiments.tasks.dense import COVERED, Detection, Geometry, match_anchors
from experiments.tasks.fitting import propose_default_boxes
from fields import NotNegative, Range
from input_pipeline.batch import Size
from models.layers import keep
from models.ops import boxes as ops
from models.ops import coding, matching, sampling

VARIANCES = (0.1, 0.1, 0.2, 0.2)  # of the released networks: offsets are of about unit size


class Targets(NamedTuple):
    """Targets of the default boxes, [A] or, of a batch, [B,A]."""

    positive: jax.Array  # bool, the box has an object
    negative: (
        jax.Array
    )  # bool, it is background; neither where a crowd, or an object that is not trained on, may be in it
    classes: jax.Array  # int32, 0 for background and the object's class + 1
    offsets: jax.Array  # [A,4], of the object's box; arbitrary but finite where there is no object


class SSDTask(Detection):
    """Sums over default boxes, divided by the number of those with an object.

    In each image the negatives of largest loss count, config.task.negatives_per_positive for each positive; an image without an
    object to learn has none, and so adds nothing.
    """

    reads = "default boxes"
    advice = (
        "bring config.model.sizes and config.model.ratios nearer to the objects' own, or enlarge config.data.image_size"
    )

    def __init__(
        self,
        *,
        match_iou: Annotated[float, Range(0, 1, open="low")],
        negatives_per_positive: NotNegative,
        localisation_weight: NotNegative,
        **detection,
    ):
        """Takes its own fields, and those of Detection.

        A default box with an IoU of `match_iou` or more is an object's. `localisation_weight` is the factor (alpha) on
        the boxes' part of the loss.
        """
        super().__init__(**detection)
        self.match_iou, self.negatives_per_positive = match_iou, negatives_per_positive
        self.localisation_weight = localisation_weight

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """Cross-entropy, and smooth L1 of the offsets with the factor `localisation_weight`: equations 1 to 3."""
        positive, negative, classes, offsets = self.targets(outputs["anchors"], batch)

        # One-hot instead of take_along_axis, whose gradient is a scatter.
        truth = jax.nn.one_hot(classes, outputs["logits"].shape[-1])
        cross_entropy = -jnp.sum(truth * jax.nn.log_softmax(outputs["logits"]), -1)
        most = (self.negatives_per_positive * jnp.sum(positive, -1)).astype(jnp.int32)
        hard = keep(jax.vmap(sampling.hardest)(jax.lax.stop_gradient(cross_entropy), negative, most))
        classification = jnp.sum(cross_entropy, where=positive | hard)

        # where, not a product with the mask: far from every object offsets may be of any size.
        error = jnp.where(positive[..., None], outputs["offsets"] - offsets, 0.0)
        localisation = jnp.sum(optax.huber_loss(error, delta=1.0))

        matched = jnp.sum(positive, dtype=jnp.float32)
        terms = {
            "classification": Mean(classification, matched),
            "localisation": Mean(localisation, matched, self.localisation_weight),
        }
        return terms, {"matched": self.mean_per_image(matched, batch), "boxes_lost": self.boxes_lost(batch)}

    def targets(self, anchors: jax.Array, batch: Arrays) -> Targets:
        """The targets of the default boxes [A,4] for each image of a batch."""

        def assign(boxes: jax.Array, classes: jax.Array, learned: jax.Array, left: jax.Array, crowd: jax.Array):
            iou = ops.pairwise_iou(boxes, anchors)
            match = matching.bipartite(iou, learned, threshold=self.match_iou)
            on_crowd = (ops.pairwise_coverage(anchors, boxes) >= COVERED) & crowd
            on_left = (iou >= self.match_iou) & left[:, None]
            background = ~match.positive & ~on_crowd.any(1) & ~on_left.any(0)
            offsets = coding.encode(boxes[match.objects], anchors, variances=VARIANCES)
            classes = jnp.where(match.positive, classes[match.objects] + 1, 0)
            return Targets(match.positive, background, classes, offsets)

        learned, crowd = self.learnable(batch), batch["valid"] & batch["crowd"]
        left = batch["valid"] & ~crowd & ~learned  # difficult ones
        return jax.tree.map(keep, jax.vmap(assign)(batch["boxes"], batch["classes"], learned, left, crowd))

    def decode(self, outputs: Arrays, size: Size) -> tuple[jax.Array, jax.Array]:
        boxes = coding.decode(outputs["offsets"], outputs["anchors"], variances=VARIANCES)
        return boxes, jax.nn.softmax(outputs["logits"])[..., 1:]

    def propose_fields(
        self, model: nnx.Module, boxes: np.ndarray, weights: np.ndarray, size: Size
    ) -> Iterator[dict[str, Any]]:
        """Sizes and ratios of the default boxes."""
        return propose_default_boxes(boxes, weights, size, len(model.ratios))

    def matchable(self, geometry: Geometry, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Those that a default box overlaps by config.task.match_iou; of others too one box learns, the best."""
        return match_anchors(boxes, geometry["anchors"], self.match_iou)
