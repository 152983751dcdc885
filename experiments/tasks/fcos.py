"""FCOS's loss, without anchors (Tian et al. 2019).

The paper is "FCOS: Fully Convolutional One-Stage Object Detection". Each location of a feature map predicts the
object that contains it.
"""

from types import ModuleType
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from experiments.tasks.base import AnyArray, Arrays, Mean, Means
from experiments.tasks.dense import Levels, PyramidAnchors, PyramidDetection, join
from experiments.tasks.detection_losses import sigmoid_focal
from fields import NotNegative, Positive, Share
from input_pipeline.batch import Size
from models.detection.fcos import FCOS
from models.layers import keep
from models.ops import boxes as ops
from models.ops import coding


class Targets(NamedTuple):
    """Training targets of the places of an image, or of a batch with the leading axis b."""

    positive: Bool[Array, "*b a"]  # the place has an object
    counted: Bool[Array, "*b a"]  # it has an object or is background; False near crowds and objects not trained on
    classes: Int[Array, "*b a"]  # of the object; arbitrary if there is none
    boxes: Float[Array, "*b a 4"]  # of the object; arbitrary but finite if there is none
    centerness: Float[Array, "*b a"]  # of the place in the object's box, 0 to 1; 0 if there is none


class FCOSTask(PyramidDetection[FCOS]):
    """The sum of a focal loss, 1 - GIoU and a cross-entropy of centerness over locations.

    The focal loss and the cross-entropy are divided by the number of locations with an object in the global batch, and the boxes'
    loss by the sum of its weights. Each divisor is at least 1.
    """

    reads = "boxes at locations"
    advice = (
        "no location of an object's level lies near its centre: enlarge config.data.image_size, lower "
        "config.model.backbone.finest, or raise config.task.radius"
    )

    def __init__(
        self,
        *,
        radius: Positive,
        reach: Positive,
        alpha: Share,
        gamma: NotNegative,
        box_weights: Literal["centerness", "equal"],
        **detection,
    ):
        """Take the fields of Detection and these.

        A place has an object if three conditions hold. It lies in the object's box. It is less than `radius` strides of its
        level from the box's centre in each direction. The farthest edge is at most `reach` strides away, and at least half of
        that; the finest level has no lower limit and the coarsest no upper limit. A `reach` of 8 gives the paper's ranges, 64
        pixels for a stride of 8. `alpha` and `gamma` are the focal loss's. `box_weights` weights a place in the boxes' loss by
        the centerness of its target, as in the authors' code, or equally, as in torchvision.
        """
        super().__init__(**detection)
        self.radius, self.reach, self.alpha, self.gamma = radius, reach, alpha, gamma
        self.box_weights = box_weights

    def loss(self, outputs: Levels, batch: Arrays) -> tuple[Means, Means]:
        """Return the three terms (equation 2, and section 3.3)."""
        own = join(outputs, batch)
        positive, counted, classes, boxes, centerness = self.targets(own["anchors"], batch)

        truth = jax.nn.one_hot(classes, own["logits"].shape[-1]) * positive[..., None]
        focal = sigmoid_focal(own["logits"], truth, alpha=self.alpha, gamma=self.gamma)
        classification = jnp.sum(focal, where=counted[..., None])

        # where, not a product with the mask: far from every object the distances may have any size.
        distances = jnp.where(positive[..., None], own["distances"], 0.0)
        overlap = ops.giou(coding.decode_distances(distances, own["anchors"][None]), boxes)
        weight = centerness if self.box_weights == "centerness" else positive.astype(jnp.float32)
        localisation = jnp.sum(jnp.where(positive, weight * (1.0 - overlap), 0.0))

        logits = jnp.where(positive, own["centerness"], 0.0)
        central = jnp.sum(optax.sigmoid_binary_cross_entropy(logits, centerness), where=positive)

        matched = jnp.sum(positive, dtype=jnp.float32)
        terms = {
            "classification": Mean(classification, matched, floor=1.0),
            "localisation": Mean(localisation, jnp.sum(weight), floor=1.0),
            "centerness": Mean(central, matched, floor=1.0),
        }
        return terms, {"matched": self.mean_per_image(matched, batch), "boxes_lost": self.boxes_lost(batch)}

    def targets(self, anchors: Float[Array, "a 4"], batch: Arrays) -> Targets:
        """Return the targets of the places at the anchors' centres, for each image of a batch.

        A place that fits several objects gets the one with the smallest area (section 3.1), and the first of equal ones.
        """

        def assign(boxes, classes, learned, untrained, crowd) -> Targets:  # of one image: [M,4], and [M] the others
            fits = self.find_fits(boxes, anchors, jnp)
            index, positive = choose(boxes, fits & learned[:, None], jnp)
            middle = ops.to_centres(anchors)[:, :2]
            inside = jnp.all((boxes[:, None, :2] <= middle) & (middle < boxes[:, None, 2:]), -1)
            other = (inside & crowd[:, None]) | (fits & untrained[:, None])
            distances = coding.encode_distances(boxes[index], anchors)
            return Targets(
                positive,
                positive | ~other.any(0),
                classes[index],
                boxes[index],
                measure_centerness(distances, positive),
            )

        learned, crowd = self.learnable(batch), batch["valid"] & batch["crowd"]
        untrained = batch["valid"] & ~crowd & ~learned  # difficult ones
        targets = jax.vmap(assign)(batch["boxes"], batch["classes"], learned, untrained, crowd)
        return jax.tree.map(keep, targets._replace(counted=targets.counted & batch["example_mask"][:, None]))

    def find_fits(
        self, boxes: Float[AnyArray, "m 4"], anchors: Float[AnyArray, "a 4"], xp: ModuleType
    ) -> Bool[AnyArray, "m a"]:
        """Return whether the location at each anchor's centre may learn each box. `xp` is numpy or jax.numpy."""
        middle, stride = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
        before = middle - boxes[:, None, :2]  # [M,A,2], distances from the top and the left edge
        after = boxes[:, None, 2:] - middle
        inside = xp.minimum(before, after).min(-1) > 0
        central = xp.abs(before - after).max(-1) / 2 < self.radius * stride
        farthest = xp.maximum(before, after).max(-1)
        least = xp.where(stride == stride.min(), 0, self.reach / 2 * stride)
        most = xp.where(stride == stride.max(), xp.inf, self.reach * stride)
        return inside & central & (least <= farthest) & (farthest <= most)

    def decode(
        self, outputs: Levels, size: Size
    ) -> tuple[tuple[Float[Array, "b _ 4"], ...], tuple[Float[Array, "b _ c"], ...]]:
        """Return boxes and scores, the square root of class probability times centerness as in the authors' code."""
        levels = zip(outputs["distances"], outputs["anchors"], strict=True)
        boxes = tuple(coding.decode_distances(distances, own.reshape(1, -1, 4)) for distances, own in levels)
        levels = zip(outputs["logits"], outputs["centerness"], strict=True)
        return boxes, tuple(
            jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(centerness)[..., None]) for logits, centerness in levels
        )

    def matchable(
        self, geometry: PyramidAnchors, boxes: Float[np.ndarray, "m 4"], size: Size
    ) -> Bool[np.ndarray, " m"]:
        """Return which boxes get a place that no smaller object takes."""
        if not len(boxes):
            return np.zeros(0, bool)
        anchors = np.concatenate([level.reshape(-1, 4) for level in geometry["anchors"]])
        index, positive = choose(boxes, self.find_fits(boxes, anchors, np), np)
        return np.isin(np.arange(len(boxes)), index[positive])


def choose(
    boxes: Float[AnyArray, "m 4"], fits: Bool[AnyArray, "m a"], xp: ModuleType
) -> tuple[Int[AnyArray, " a"], Bool[AnyArray, " a"]]:
    """Return the index of the smallest box that fits each place, and whether there is one."""
    areas = xp.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return xp.where(fits, areas[:, None], xp.inf).argmin(0), xp.any(fits, 0)


def measure_centerness(distances: Float[Array, "*batch 4"], positive: Bool[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return the centerness from the distances (t, l, b, r) of positive places, and 0 elsewhere (equation 3).

    It is sqrt(min(t, b) / max(t, b) * min(l, r) / max(l, r)).
    """
    before, after = distances[..., :2], distances[..., 2:]
    share = jnp.minimum(before, after) / jnp.where(positive[..., None], jnp.maximum(before, after), 1.0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, jnp.prod(share, -1), 1.0)), 0.0)
