"""The base class of detectors of regions, with their sampling and their two losses (Girshick 2015, "Fast R-CNN")."""

from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from errors import UserError
from experiments.tasks.base import Arrays, Mean, Means, Outputs
from experiments.tasks.dense import Detection
from experiments.tasks.detection_losses import smooth_l1
from fields import Count, NotNegative, Share
from input_pipeline.batch import Size
from models.detection.regions import RegionModel
from models.layers import keep
from models.ops import coding, sampling
from models.ops.boxes import pairwise_iou

VARIANCES = (0.1, 0.1, 0.2, 0.2)  # of the authors' code
RegionT = TypeVar("RegionT", bound=RegionModel, contravariant=True)


class RegionDetection(Detection[RegionT]):
    """A detector that predicts a class and a box for each of given regions.

    In training the ground-truth boxes join the regions, so that an image with objects has foreground from the first step.
    """

    def __init__(
        self,
        *,
        region_iou: Share,
        background_iou: Share = 0.0,
        regions: Count,
        region_share: Share,
        beta: NotNegative,
        box_weight: NotNegative = 1.0,
        **detection,
    ):
        """Take the fields of Detection and these.

        `regions` of an image's regions and ground-truth boxes are sampled (section 2.3). A region whose IoU with an object is
        `region_iou` or more is positive; one whose largest IoU is between `background_iou` and `region_iou` is background. At
        most `region_share` of the sample are positive. Smooth L1 bends at `beta`. `box_weight` multiplies the boxes' term of
        the loss (lambda of equation 1). With 0, boxes are not learned and stay as proposed.

        Raises UserError for a background_iou above region_iou.
        """
        super().__init__(**detection)
        if background_iou > region_iou:
            raise UserError(
                f"config.task.background_iou={background_iou} is above config.task.region_iou={region_iou}; lower it"
            )
        self.region_iou, self.background_iou = region_iou, background_iou
        self.regions, self.region_share, self.beta, self.box_weight = regions, region_share, beta, box_weight

    def sample_regions(
        self, proposals: Float[Array, "b p 4"], mask: Bool[Array, "b p"], batch: Arrays, key: PRNGKeyArray
    ) -> Arrays:
        """Sample `regions` [B,S,4] from each image's proposals and ground-truth boxes, with their targets."""
        boxes = jnp.concatenate([proposals, batch["boxes"]], 1)
        there = jnp.concatenate([mask, self.learnable(batch)], 1)
        targets = self.assign(boxes, batch, low=self.region_iou, high=self.region_iou, low_quality=False)
        counted = targets.counted & there
        if self.background_iou:
            overlaps = jnp.where(self.learnable(batch)[:, None], pairwise_iou(boxes, batch["boxes"]), 0.0)
            counted &= targets.positive | (overlaps.max(-1) >= self.background_iou)
        index, mask, positive = draw_sample(key, counted, targets.positive, self.regions, self.region_share)
        classes = jnp.take_along_axis(targets.classes, index, 1)
        sampled = {
            "regions": pick(boxes, index),
            "region_mask": mask,
            "region_classes": jnp.where(positive, classes + 1, 0),
            "region_boxes": pick(targets.boxes, index),
            "region_objects": jnp.take_along_axis(targets.objects, index, 1),
        }
        return jax.tree.map(keep, sampled)

    def region_terms(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return equation 1's terms of classes and boxes, each a mean over all sampled regions, and scalars to log."""
        chosen, truth = outputs["region_mask"], jax.nn.one_hot(outputs["region_classes"], outputs["logits"].shape[-1])
        foreground = chosen & (outputs["region_classes"] > 0)
        cost = optax.softmax_cross_entropy(outputs["logits"], truth)
        own = jnp.einsum("brc,brcn->brn", truth, outputs["offsets"], precision=jax.lax.Precision.HIGHEST)
        wanted = coding.encode(outputs["region_boxes"], outputs["regions"], variances=VARIANCES)
        offsets = sum_errors(own, wanted, foreground, self.beta)
        count, matched = jnp.sum(chosen, dtype=jnp.float32), jnp.sum(foreground, dtype=jnp.float32)
        terms = {
            "classification": Mean(jnp.sum(cost, where=chosen), count),
            "localisation": Mean(offsets, count, factor=self.box_weight),
        }
        return terms, {"matched": self.mean_per_image(matched, batch)}

    def decode(self, outputs: Outputs, size: Size) -> tuple[Float[Array, "b r c 4"], Float[Array, "b r c"]]:
        """Decode a box for each region and class, and its score, which is -inf in padding."""
        offsets = outputs["offsets"][:, :, 1:]
        if not self.box_weight:
            offsets = jnp.zeros_like(offsets)
        boxes = coding.decode(offsets, outputs["regions"][:, :, None], variances=VARIANCES)
        scores = jax.nn.softmax(outputs["logits"])[..., 1:]
        return boxes, jnp.where(outputs["region_mask"][..., None], scores, -jnp.inf)


def sum_errors(
    offsets: Float[Array, "b s 4"], wanted: Float[Array, "b s 4"], positive: Bool[Array, "b s"], beta: float
) -> Float[Array, ""]:
    """Sum smooth L1 over the offsets of the positive samples."""
    return jnp.sum(smooth_l1(jnp.where(positive[..., None], offsets - wanted, 0.0), beta))


def draw_sample(
    key: PRNGKeyArray, counted: Bool[Array, "b a"], positive: Bool[Array, "b a"], count: int, share: float
) -> tuple[Int[Array, "b {count}"], Bool[Array, "b {count}"], Bool[Array, "b {count}"]]:
    """Sample `count` of the counted anchors of each image, at most `share` of them positive.

    Returns their indices, a mask of the places that are filled, and which of them are positive.
    """
    draw = jax.vmap(partial(sampling.sample, count=count, share=share))
    keys = jax.random.split(key, len(counted))
    return jax.tree.map(keep, draw(keys, counted & positive, counted & ~positive))


def pick(boxes: Float[Array, "b a 4"], index: Int[Array, "b s"]) -> Float[Array, "b s 4"]:
    """Return the boxes at each image's indices."""
    return jnp.take_along_axis(boxes, index[..., None], 1)
