"""SSD's loss on matched default boxes and hard negatives (Liu et al. 2016, section 2.2)."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from experiments.tasks.base import ArrayLike, Arrays, Mean, Means, Outputs
from experiments.tasks.dense import COVERED, Detection, match_anchors
from experiments.tasks.fitting import propose_default_boxes
from fields import NotNegative, Range
from input_pipeline.batch import Size
from models.detection.ssd import SSD
from models.layers import keep
from models.ops import boxes as ops
from models.ops import coding, matching, sampling

VARIANCES = (0.1, 0.1, 0.2, 0.2)  # of the released networks: offsets have about unit size


class Targets(NamedTuple):
    """Training targets of the default boxes of an image, or of a batch with the leading axis b."""

    positive: Bool[Array, "*b a"]  # the box has an object
    negative: Bool[Array, "*b a"]  # the box is background; False near crowds and near objects that are not trained on
    classes: Int[Array, "*b a"]  # 0 for background, else the object's class + 1
    offsets: Float[Array, "*b a 4"]  # of the object's box; arbitrary but finite if there is none


class SSDTask(Detection[SSD]):
    """Losses summed over default boxes and divided by the number of boxes with an object.

    In each image only the negatives with the largest losses count, config.task.negatives_per_positive for each positive. An
    image without an object to learn therefore adds nothing.
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
        """Take the fields of Detection and these.

        A default box with an IoU of `match_iou` or more has an object. `localisation_weight` is the factor (alpha) on the
        term `localisation`.
        """
        super().__init__(**detection)
        self.match_iou, self.negatives_per_positive = match_iou, negatives_per_positive
        self.localisation_weight = localisation_weight

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return the cross-entropy of classes, and the smooth L1 loss of offsets (equations 1 to 3)."""
        positive, negative, classes, offsets = self.targets(outputs["anchors"], batch)

        # One-hot instead of take_along_axis, whose gradient is a scatter.
        truth = jax.nn.one_hot(classes, outputs["logits"].shape[-1])
        cross_entropy = -jnp.sum(truth * jax.nn.log_softmax(outputs["logits"]), -1)
        most = (self.negatives_per_positive * jnp.sum(positive, -1)).astype(jnp.int32)
        hard = keep(jax.vmap(sampling.hardest)(jax.lax.stop_gradient(cross_entropy), negative, most))
        classification = jnp.sum(cross_entropy, where=positive | hard)

        # where, not a product with the mask: far from every object the offsets may have any size.
        error = jnp.where(positive[..., None], outputs["offsets"] - offsets, 0.0)
        localisation = jnp.sum(optax.huber_loss(error, delta=1.0))

        matched = jnp.sum(positive, dtype=jnp.float32)
        terms = {
            "classification": Mean(classification, matched),
            "localisation": Mean(localisation, matched, self.localisation_weight),
        }
        return terms, {"matched": self.mean_per_image(matched, batch), "boxes_lost": self.boxes_lost(batch)}

    def targets(self, anchors: Float[ArrayLike, "a 4"], batch: Arrays) -> Targets:
        """Return the targets of the default boxes for each image of a batch."""

        def assign(boxes, classes, learned, untrained, crowd) -> Targets:  # of one image: [M,4], and [M] the others
            iou = ops.pairwise_iou(boxes, anchors)
            match = matching.bipartite(iou, learned, threshold=self.match_iou)
            on_crowd = (ops.pairwise_coverage(anchors, boxes) >= COVERED) & crowd
            on_untrained = (iou >= self.match_iou) & untrained[:, None]
            background = ~match.positive & ~on_crowd.any(1) & ~on_untrained.any(0)
            offsets = coding.encode(boxes[match.objects], anchors, variances=VARIANCES)
            classes = jnp.where(match.positive, classes[match.objects] + 1, 0)
            return Targets(match.positive, background, classes, offsets)

        learned, crowd = self.learnable(batch), batch["valid"] & batch["crowd"]
        untrained = batch["valid"] & ~crowd & ~learned  # difficult ones
        return jax.tree.map(keep, jax.vmap(assign)(batch["boxes"], batch["classes"], learned, untrained, crowd))

    def decode(self, outputs: Outputs, size: Size) -> tuple[Float[Array, "b a 4"], Float[Array, "b a c"]]:
        boxes = coding.decode(outputs["offsets"], outputs["anchors"], variances=VARIANCES)
        return boxes, jax.nn.softmax(outputs["logits"])[..., 1:]

    def propose_fields(
        self, model: SSD, boxes: Float[np.ndarray, "n 4"], weights: Float[np.ndarray, " n"], size: Size
    ) -> Iterator[dict[str, Any]]:
        """Yield sizes and ratios of the default boxes."""
        return propose_default_boxes(boxes, weights, size, len(model.ratios))

    def matchable(
        self, geometry: Mapping[str, Float[np.ndarray, "a 4"]], boxes: Float[np.ndarray, "m 4"], size: Size
    ) -> Bool[np.ndarray, " m"]:
        """Return which boxes have an IoU of config.task.match_iou or more with a default box.

        Of every other box only the best default box learns.
        """
        return match_anchors(boxes, geometry["anchors"], self.match_iou)
