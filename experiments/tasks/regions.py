"""What detectors of regions share: the sampling of an image's regions, and their two losses (Girshick 2015, "Fast R-CNN")."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from errors import UserError
from experiments.tasks.base import Arrays, Mean, Means
from experiments.tasks.dense import Detection
from experiments.tasks.detection_losses import smooth_l1
from fields import Count, NotNegative, Share
from input_pipeline.batch import Size
from models.layers import keep
from models.ops import coding, sampling
from models.ops.boxes import pairwise_iou

VARIANCES = (0.1, 0.1, 0.2, 0.2)  # of the authors' code


class RegionDetection(Detection):
    """A detector that tells the class and the box of regions, which come from elsewhere.

    In training the ground truth's boxes join them, so that an image with objects has foreground from the first step on.
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
        """Takes its own fields, and those of Detection.

        Of an image's regions and its objects' own boxes `regions` are sampled, at most `region_share` of them with an IoU of
        `region_iou` or more with an object; the others are background, and have one of `background_iou` or more (section
        2.3). Smooth L1 bends at `beta`. `box_weight` is the factor on the boxes' part of the loss (lambda of equation 1); with 0,
        boxes are not learned and stay as they are proposed.

        Raises UserError for a background_iou above region_iou.
        """
        super().__init__(**detection)
        if background_iou > region_iou:
            raise UserError(
                f"config.task.background_iou={background_iou} is above config.task.region_iou={region_iou}; lower it"
            )
        self.region_iou, self.background_iou = region_iou, background_iou
        self.regions, self.region_share, self.beta, self.box_weight = regions, region_share, beta, box_weight

    def sample_regions(self, proposals: jax.Array, mask: jax.Array, batch: Arrays, key: jax.Array) -> Arrays:
        """Sample S `regions` [B,S,4] of each image from its proposals and its objects' boxes, with their targets."""
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
            "region_objects": jnp.take_along_axis(targets.index, index, 1),
        }
        return jax.tree.map(keep, sampled)

    def region_terms(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """Equation 1: the terms of the classes and of the boxes, each over all sampled regions, and what is logged."""
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

    def decode(self, outputs: Arrays, size: Size) -> tuple[jax.Array, jax.Array]:
        """Decode a box for each region and class, [B,R,C,4], and its score [B,R,C], which is -inf in padding."""
        offsets = outputs["offsets"][:, :, 1:]
        if not self.box_weight:
            offsets = jnp.zeros_like(offsets)
        boxes = coding.decode(offsets, outputs["regions"][:, :, None], variances=VARIANCES)
        scores = jax.nn.softmax(outputs["logits"])[..., 1:]
        return boxes, jnp.where(outputs["region_mask"][..., None], scores, -jnp.inf)


def sum_errors(offsets: jax.Array, wanted: jax.Array, positive: jax.Array, beta: float) -> jax.Array:
    """Sum smooth L1 over the offsets [B,S,4] of those that are `positive` [B,S]."""
    return jnp.sum(smooth_l1(jnp.where(positive[..., None], offsets - wanted, 0.0), beta))


def draw_sample(
    key: jax.Array, counted: jax.Array, positive: jax.Array, count: int, share: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sample among those that are `counted` [B,A], `positive` [B,A] or not: (index [B,count], mask, is_positive)."""
    draw = jax.vmap(partial(sampling.sample, count=count, share=share))
    keys = jax.random.split(key, len(counted))
    return jax.tree.map(keep, draw(keys, counted & positive, counted & ~positive))


def pick(boxes: jax.Array, index: jax.Array) -> jax.Array:
    """boxes [B,A,4] at index [B,S]: [B,S,4]."""
    return jnp.take_along_axis(boxes, index[..., None], 1)
