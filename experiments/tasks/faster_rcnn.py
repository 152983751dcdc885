"""Faster R-CNN's two losses, learned jointly (Ren et al. 2015, "Faster R-CNN", section 3.2, approximate joint training)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from errors import UserError
from experiments.tasks.base import Arrays, Mean, Means, normalise
from experiments.tasks.dense import (
    ANCHOR_ADVICE,
    Detection,
    Geometry,
    check_thresholds,
    clip_to_image,
    is_inside,
    join,
    match_grids,
)
from experiments.tasks.detection_losses import smooth_l1
from fields import Count, NotNegative, Share
from input_pipeline.batch import Size
from models.ops import coding, nms, sampling
from models.ops.boxes import pairwise_iou

ANCHOR_VARIANCES = (1.0, 1.0, 1.0, 1.0)
REGION_VARIANCES = (0.1, 0.1, 0.2, 0.2)  # of the authors' code
SHORTEST = 1e-3  # pixels; a proposal with a shorter side is left out


class FasterRCNNTask(Detection):
    """Proposals of the first stage are the regions of the second; both learn from samples that `apply` draws.

    Proposals carry no gradient. In training the ground truth's boxes join them, so that an image with objects has
    foreground from the first step on.
    """

    reads = "proposals and regions"
    advice = ANCHOR_ADVICE

    def __init__(
        self,
        *,
        positive_iou: Share,
        negative_iou: Share,
        anchors: Count,
        anchor_share: Share,
        proposal_candidates: tuple[Count, Count],
        proposals: tuple[Count, Count],
        proposal_iou: Share,
        region_iou: Share,
        regions: Count,
        region_share: Share,
        beta: NotNegative | tuple[NotNegative, NotNegative],
        border_anchors: bool = True,
        background_iou: Share = 0.0,
        **detection,
    ):
        """Takes its own fields, and those of Detection.

        First stage: an anchor with an IoU of `positive_iou` or more is an object's, and so is each object's best one; below
        `negative_iou` it is background. Without `border_anchors`, as published (section 3.3), anchors that cross the image's
        border do not train. An image's loss is of `anchors` sampled ones, at most `anchor_share` of them objects'. Of each
        level the best `proposal_candidates` (in training, in evaluation) go through a suppression at `proposal_iou`, and the
        best `proposals` of all levels are the image's. Second stage: of these and the objects' own boxes `regions` are
        sampled, at most `region_share` of them with an IoU of `region_iou` or more with an object; the others are
        background, and have one of `background_iou` or more (Girshick 2015, section 2.3). Smooth L1 bends at `beta`, or at
        one for each stage.

        Raises UserError for a negative_iou above positive_iou, and for a background_iou above region_iou.
        """
        super().__init__(**detection)
        check_thresholds(negative_iou, positive_iou)
        if background_iou > region_iou:
            raise UserError(
                f"config.task.background_iou={background_iou} is above config.task.region_iou={region_iou}; lower it"
            )
        self.positive_iou, self.negative_iou, self.region_iou = positive_iou, negative_iou, region_iou
        self.anchors, self.anchor_share, self.regions, self.region_share = anchors, anchor_share, regions, region_share
        self.proposal_candidates, self.proposals = tuple(proposal_candidates), tuple(proposals)
        self.proposal_iou = proposal_iou
        self.betas = tuple(beta) if isinstance(beta, Sequence) else (beta, beta)
        self.border_anchors, self.background_iou = border_anchors, background_iou

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """Run both stages: the head's outputs for `regions` [B,R,4], and their mask `region_mask` [B,R].

        In training the outputs hold the sampled anchors and regions with their targets too.
        """
        return self.run_stages(model, batch, train=train, rngs=rngs)[1]

    def run_stages(
        self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[dict[int, jax.Array], Arrays]:
        """Run both stages: the features {stride: [B,h,w,C]}, and the outputs as `apply` returns them."""
        size = batch["image"].shape[1:3]
        features = model.features(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)
        levels = model.propose(features) | model.geometry(size)
        regions, mask = self.propose(levels, batch, train)
        if not train:
            return features, {"regions": regions, "region_mask": mask} | model.classify(features, regions, train=False)
        anchor_key, region_key = jax.random.split(rngs.sampling())
        first = self.sample_anchors(levels, batch, anchor_key)
        second = self.sample_regions(regions, mask, batch, region_key)
        return features, first | second | model.classify(features, second["regions"], train=True, rngs=rngs)

    def propose(self, levels: dict[str, tuple], batch: Arrays, train: bool) -> tuple[jax.Array, jax.Array]:
        """Make each image's proposals [B,P,4], clipped to the image and without a gradient, and their mask [B,P]."""
        place = 0 if train else 1
        most = dict(candidates=self.proposal_candidates[place], count=self.proposals[place])
        suppress = partial(nms.propose, shortest=SHORTEST, iou=self.proposal_iou, **most)
        shifts, scores = jax.lax.stop_gradient((levels["shifts"], levels["objectness"]))
        boxes = [
            clip_to_image(coding.decode(own, anchors.reshape(1, -1, 4), variances=ANCHOR_VARIANCES), batch)
            for own, anchors in zip(shifts, levels["anchors"], strict=True)
        ]
        return jax.vmap(suppress)(boxes, list(scores))

    def sample_anchors(self, levels: dict[str, tuple], batch: Arrays, key: jax.Array) -> Arrays:
        """Sample S anchors of each image: their `objectness` [B,S] and `shifts` [B,S,4], and the targets of both."""
        own = join(levels, batch)
        anchors, there = own["anchors"], True
        if not self.border_anchors:
            there = is_inside(anchors, batch)
            anchors = jnp.where(there[..., None], anchors, 0.0)  # an object's best one is inside
        matching = dict(low=self.negative_iou, high=self.positive_iou, low_quality=True)
        targets = self.assign(anchors, batch, **matching)
        counted = targets.counted & there
        index, mask, positive = _sample(key, counted, targets.positive, self.anchors, self.anchor_share)
        return {
            "objectness": jnp.take_along_axis(own["objectness"], index, 1),
            "shifts": _pick(own["shifts"], index),
            "sampled_anchors": own["anchors"][index],
            "anchor_boxes": _pick(targets.boxes, index),
            "anchor_mask": mask,
            "anchor_positive": positive,
        }

    def sample_regions(self, proposals: jax.Array, mask: jax.Array, batch: Arrays, key: jax.Array) -> Arrays:
        """Sample S `regions` [B,S,4] of each image from its proposals and its objects' boxes, with their targets."""
        boxes = jnp.concatenate([proposals, batch["boxes"]], 1)
        there = jnp.concatenate([mask, self.learnable(batch)], 1)
        targets = self.assign(boxes, batch, low=self.region_iou, high=self.region_iou, low_quality=False)
        counted = targets.counted & there
        if self.background_iou:
            overlaps = jnp.where(self.learnable(batch)[:, None], pairwise_iou(boxes, batch["boxes"]), 0.0)
            counted &= targets.positive | (overlaps.max(-1) >= self.background_iou)
        index, mask, positive = _sample(key, counted, targets.positive, self.regions, self.region_share)
        classes = jnp.take_along_axis(targets.classes, index, 1)
        return {
            "regions": _pick(boxes, index),
            "region_mask": mask,
            "region_classes": jnp.where(positive, classes + 1, 0),
            "region_boxes": _pick(targets.boxes, index),
            "region_objects": jnp.take_along_axis(targets.index, index, 1),
        }

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """Equation 1 for the anchors, and Fast R-CNN's (Girshick 2015, equation 1) for the regions, each over all sampled.

        Evaluation samples nothing and has no terms.
        """
        logs = {"boxes_lost": self.boxes_lost(batch)}
        if "anchor_mask" not in outputs:
            return {}, logs
        mask, positive = outputs["anchor_mask"], outputs["anchor_positive"]
        binary = optax.sigmoid_binary_cross_entropy(outputs["objectness"], positive.astype(jnp.float32))
        wanted = coding.encode(outputs["anchor_boxes"], outputs["sampled_anchors"], variances=ANCHOR_VARIANCES)
        shifts = _sum_errors(outputs["shifts"], wanted, positive, self.betas[0])
        anchors = jnp.sum(mask, dtype=jnp.float32)

        chosen, truth = outputs["region_mask"], jax.nn.one_hot(outputs["region_classes"], outputs["logits"].shape[-1])
        foreground = chosen & (outputs["region_classes"] > 0)
        cost = optax.softmax_cross_entropy(outputs["logits"], truth)
        own = jnp.einsum("brc,brcn->brn", truth, outputs["offsets"], precision=jax.lax.Precision.HIGHEST)
        wanted = coding.encode(outputs["region_boxes"], outputs["regions"], variances=REGION_VARIANCES)
        offsets = _sum_errors(own, wanted, foreground, self.betas[1])
        regions = jnp.sum(chosen, dtype=jnp.float32)
        terms = {
            "objectness": Mean(jnp.sum(binary, where=mask), anchors),
            "proposals": Mean(shifts, anchors),
            "classification": Mean(jnp.sum(cost, where=chosen), regions),
            "localisation": Mean(offsets, regions),
        }
        matched = jnp.sum(foreground, dtype=jnp.float32)
        return terms, logs | {"matched": self.mean_per_image(matched, batch)}

    def decode(self, outputs: Arrays, size: Size) -> tuple[jax.Array, jax.Array]:
        """Decode a box for each region and class, [B,R,C,4], and its score [B,R,C], which is -inf in padding."""
        boxes = coding.decode(outputs["offsets"][:, :, 1:], outputs["regions"][:, :, None], variances=REGION_VARIANCES)
        scores = jax.nn.softmax(outputs["logits"])[..., 1:]
        return boxes, jnp.where(outputs["region_mask"][..., None], scores, -jnp.inf)

    def matchable(self, geometry: Geometry, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Tell which boxes an anchor overlaps by config.task.negative_iou. An object's best anchor learns it at any overlap."""
        return match_grids(boxes, geometry["anchors"], self.negative_iou)


def _sum_errors(offsets: jax.Array, wanted: jax.Array, positive: jax.Array, beta: float) -> jax.Array:
    """Sum smooth L1 over the offsets [B,S,4] of those that are `positive` [B,S]."""
    return jnp.sum(smooth_l1(jnp.where(positive[..., None], offsets - wanted, 0.0), beta))


def _sample(
    key: jax.Array, counted: jax.Array, positive: jax.Array, count: int, share: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sample among those that are `counted` [B,A], `positive` [B,A] or not: (index [B,count], mask, is_positive)."""
    draw = jax.vmap(partial(sampling.sample, count=count, share=share))
    keys = jax.random.split(key, len(counted))
    return draw(keys, counted & positive, counted & ~positive)


def _pick(boxes: jax.Array, index: jax.Array) -> jax.Array:
    """boxes [B,A,4] at index [B,S]: [B,S,4]."""
    return jnp.take_along_axis(boxes, index[..., None], 1)
