"""FCOS's loss (Tian et al. 2019, "FCOS: Fully Convolutional One-Stage Object Detection"): places in objects learn them."""

from types import ModuleType
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.tasks.base import Arrays, Mean, Means
from experiments.tasks.dense import Geometry, Levels, PyramidDetection, join
from experiments.tasks.detection_losses import sigmoid_focal
from fields import NotNegative, Positive, Share
from input_pipeline.batch import Size
from models.layers import keep
from models.ops import boxes as ops
from models.ops import coding


class Targets(NamedTuple):
    """Targets of the places, [A] or, of a batch, [B,A]."""

    positive: jax.Array  # bool, the place has an object
    counted: jax.Array  # bool, it has one or is background; else a crowd, or an object not trained on, may be there
    classes: jax.Array  # int32, of the object; arbitrary where there is none
    boxes: jax.Array  # [A,4], of the object; arbitrary but finite where there is none
    centerness: jax.Array  # of the place in the object's box, 0 to 1; 0 where there is none


class FCOSTask(PyramidDetection):
    """The sum of a focal loss, 1 - GIoU and a cross-entropy of centerness over places.

    The first and the last are divided by the number of places with an object in the whole batch, the boxes' loss by the
    sum of their weights; all by 1 where that is less.
    """

    reads = "boxes of places"
    advice = (
        "an object needs a place of its level in its middle: enlarge config.data.image_size, lower "
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
        """Takes its own fields, and those of Detection.

        A place has an object if it lies in its box, less than `radius` strides of its level from the box's centre in each
        direction, and if the farthest edge is within the level's range: `reach` strides at most, half of that at least. The
        finest level has no least distance, the coarsest no largest. The paper's ranges, 64 pixels for a stride of 8, are a
        `reach` of 8. `alpha` and `gamma` are those of the focal loss. `box_weights` says how much a place counts in the
        boxes' loss: by the centerness of its target, as in the authors' code, or equally, as in torchvision.
        """
        super().__init__(**detection)
        self.radius, self.reach, self.alpha, self.gamma = radius, reach, alpha, gamma
        self.box_weights = box_weights

    def loss(self, outputs: Levels, batch: Arrays) -> tuple[Means, Means]:
        """The three parts (equation 2, and section 3.3)."""
        own = join(outputs, batch)
        positive, counted, classes, boxes, centerness = self.targets(own["anchors"], batch)

        truth = jax.nn.one_hot(classes, own["logits"].shape[-1]) * positive[..., None]
        focal = sigmoid_focal(own["logits"], truth, alpha=self.alpha, gamma=self.gamma)
        classification = jnp.sum(focal, where=counted[..., None])

        # where, not a product with the mask: far from every object distances may be of any size.
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

    def targets(self, anchors: jax.Array, batch: Arrays) -> Targets:
        """The targets of the places in the middle of `anchors` [A,4], for each image of a batch.

        Of several objects a place gets the one of the smallest area (section 3.1), and of equal ones the first.
        """

        def assign(boxes: jax.Array, classes: jax.Array, learned: jax.Array, left: jax.Array, crowd: jax.Array):
            fits = self.find_fits(boxes, anchors, jnp)
            index, positive = choose(boxes, fits & learned[:, None], jnp)
            middle = ops.to_centres(anchors)[:, :2]
            inside = jnp.all((boxes[:, None, :2] <= middle) & (middle < boxes[:, None, 2:]), -1)
            other = (inside & crowd[:, None]) | (fits & left[:, None])
            distances = coding.encode_distances(boxes[index], anchors)
            return Targets(
                positive,
                positive | ~other.any(0),
                classes[index],
                boxes[index],
                measure_centerness(distances, positive),
            )

        learned, crowd = self.learnable(batch), batch["valid"] & batch["crowd"]
        left = batch["valid"] & ~crowd & ~learned  # difficult ones
        targets = jax.vmap(assign)(batch["boxes"], batch["classes"], learned, left, crowd)
        return jax.tree.map(keep, targets._replace(counted=targets.counted & batch["example_mask"][:, None]))

    def find_fits(self, boxes: jax.Array, anchors: jax.Array, xp: ModuleType) -> jax.Array:
        """[M,A] bool: whether the place in the middle of each of anchors [A,4] may learn each of boxes [M,4].

        `xp` is numpy or jax.numpy.
        """
        middle, stride = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
        before = middle - boxes[:, None, :2]  # [M,A,2], of the top left corner
        after = boxes[:, None, 2:] - middle
        inside = xp.minimum(before, after).min(-1) > 0
        central = xp.abs(before - after).max(-1) / 2 < self.radius * stride
        farthest = xp.maximum(before, after).max(-1)
        least = xp.where(stride == stride.min(), 0, self.reach / 2 * stride)
        most = xp.where(stride == stride.max(), xp.inf, self.reach * stride)
        return inside & central & (least <= farthest) & (farthest <= most)

    def decode(self, outputs: Levels, size: Size) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """A score is the root of the class's probability times the centerness, as in the authors' code."""
        levels = zip(outputs["distances"], outputs["anchors"], strict=True)
        boxes = tuple(coding.decode_distances(distances, own.reshape(1, -1, 4)) for distances, own in levels)
        levels = zip(outputs["logits"], outputs["centerness"], strict=True)
        return boxes, tuple(
            jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(centerness)[..., None]) for logits, centerness in levels
        )

    def matchable(self, geometry: Geometry, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Those that have a place, which no smaller object has taken."""
        if not len(boxes):
            return np.zeros(0, bool)
        anchors = np.concatenate([level.reshape(-1, 4) for level in geometry["anchors"]])
        index, positive = choose(boxes, self.find_fits(boxes, anchors, np), np)
        return np.isin(np.arange(len(boxes)), index[positive])


def choose(boxes: jax.Array, fits: jax.Array, xp: ModuleType) -> tuple[jax.Array, jax.Array]:
    """The smallest of boxes [M,4] that `fits` [M,A] at each place: (its index [A], whether there is one [A])."""
    areas = xp.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return xp.where(fits, areas[:, None], xp.inf).argmin(0), fits.any(0)


def measure_centerness(distances: jax.Array, positive: jax.Array) -> jax.Array:
    """sqrt(min(t, b) / max(t, b) * min(l, r) / max(l, r)) [...] of distances [...,4]; 0 where not `positive` (equation 3)."""
    before, after = distances[..., :2], distances[..., 2:]
    share = jnp.minimum(before, after) / jnp.where(positive[..., None], jnp.maximum(before, after), 1.0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, jnp.prod(share, -1), 1.0)), 0.0)
