"""Faster R-CNN's two losses, trained jointly (Ren et al. 2015, "Faster R-CNN", section 3.2, approximate joint training)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from experiments.tasks.base import Arrays, Mean, Means, Outputs, image_size, normalise
from experiments.tasks.dense import (
    ANCHOR_ADVICE,
    Levels,
    PyramidAnchors,
    check_thresholds,
    clip_to_image,
    is_inside,
    join,
    match_grids,
)
from experiments.tasks.fitting import propose_anchors
from experiments.tasks.regions import RegionDetection, draw_sample, pick, sum_errors
from fields import Count, NotNegative, Share
from input_pipeline.batch import Size
from models.detection.faster_rcnn import FasterRCNN
from models.ops import coding, nms

ANCHOR_VARIANCES = (1.0, 1.0, 1.0, 1.0)
SHORTEST = 1e-3  # pixels; a proposal with a shorter side is dropped
ProposerT = TypeVar("ProposerT", bound=FasterRCNN, contravariant=True)


class FasterRCNNTask(RegionDetection[ProposerT]):
    """Proposals of the first stage are the regions of the second. Both stages train on samples that `apply` draws.

    Proposals carry no gradient.
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
        beta: NotNegative | tuple[NotNegative, NotNegative],
        border_anchors: bool = True,
        **regions,
    ):
        """Take the fields of RegionDetection and these.

        First stage: an anchor with an IoU of `positive_iou` or more has an object, and so has each object's best anchor. Below
        `negative_iou` an anchor is background. Without `border_anchors`, as published (section 3.3), anchors that cross the
        image's border do not train. The loss of an image samples `anchors` of them, at most `anchor_share` with an object.
        The best `proposal_candidates` (in training, in evaluation) of each level pass a suppression at `proposal_iou`, and
        the best `proposals` of all levels become the regions of the second stage. Smooth L1 bends at `beta`, one for both
        stages or one for each.

        Raises UserError for a negative_iou above positive_iou, and the errors of RegionDetection.
        """
        self.anchor_beta, region_beta = beta if isinstance(beta, Sequence) else (beta, beta)
        super().__init__(beta=region_beta, **regions)
        check_thresholds(negative_iou, positive_iou)
        self.positive_iou, self.negative_iou, self.border_anchors = positive_iou, negative_iou, border_anchors
        self.anchors, self.anchor_share = anchors, anchor_share
        self.proposal_candidates, self.proposals = tuple(proposal_candidates), tuple(proposals)
        self.proposal_iou = proposal_iou

    def apply(self, model: ProposerT, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Run both stages. Return the head's outputs for `regions` [B,R,4], with their mask `region_mask` [B,R].

        In training the outputs also contain the sampled anchors and regions with their targets.
        """
        return self.run_stages(model, batch, train=train, rngs=rngs)[1]

    def run_stages(
        self, model: ProposerT, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[dict[int, Float[Array, "b _h _w _c"]], Outputs]:
        """Run both stages. Return the features by stride, and the outputs of `apply`."""
        features = model.features(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)
        levels = model.propose(features) | model.geometry(image_size(batch))
        regions, mask = self.propose(levels, batch, train)
        if not train:
            return features, {"regions": regions, "region_mask": mask} | model.classify(features, regions, train=False)
        assert rngs is not None
        anchor_key, region_key = jax.random.split(rngs.sampling())
        first = self.sample_anchors(levels, batch, anchor_key)
        second = self.sample_regions(regions, mask, batch, region_key)
        return features, first | second | model.classify(features, second["regions"], train=True, rngs=rngs)

    def propose(self, levels: Levels, batch: Arrays, train: bool) -> tuple[Float[Array, "b p 4"], Bool[Array, "b p"]]:
        """Return each image's proposals, clipped to the image and without a gradient, and their mask."""
        place = 0 if train else 1
        most = dict(candidates=self.proposal_candidates[place], count=self.proposals[place])
        suppress = partial(nms.propose, shortest=SHORTEST, iou=self.proposal_iou, **most)
        shifts, scores = jax.lax.stop_gradient((levels["shifts"], levels["objectness"]))
        boxes = [
            clip_to_image(coding.decode(own, anchors.reshape(1, -1, 4), variances=ANCHOR_VARIANCES), batch)
            for own, anchors in zip(shifts, levels["anchors"], strict=True)
        ]
        return jax.vmap(suppress)(boxes, list(scores))

    def sample_anchors(self, levels: Levels, batch: Arrays, key: PRNGKeyArray) -> Arrays:
        """Sample anchors of each image. Return their `objectness` [B,S] and `shifts` [B,S,4], and the targets of both."""
        own = join(levels, batch)
        anchors, there = own["anchors"], True
        if not self.border_anchors:
            there = is_inside(anchors, batch)
            anchors = jnp.where(there[..., None], anchors, 0.0)  # so that an object's best anchor is inside
        targets = self.assign(anchors, batch, low=self.negative_iou, high=self.positive_iou, low_quality=True)
        counted = targets.counted & there
        index, mask, positive = draw_sample(key, counted, targets.positive, self.anchors, self.anchor_share)
        return {
            "objectness": jnp.take_along_axis(own["objectness"], index, 1),
            "shifts": pick(own["shifts"], index),
            "sampled_anchors": own["anchors"][index],
            "anchor_boxes": pick(targets.boxes, index),
            "anchor_mask": mask,
            "anchor_positive": positive,
        }

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return equation 1's terms of the anchors, and Fast R-CNN's (Girshick 2015, equation 1) of the regions.

        Each is a mean over all samples. Evaluation samples nothing and has no terms.
        """
        logs = {"boxes_lost": self.boxes_lost(batch)}
        if "anchor_mask" not in outputs:
            return {}, logs
        mask, positive = outputs["anchor_mask"], outputs["anchor_positive"]
        binary = optax.sigmoid_binary_cross_entropy(outputs["objectness"], positive.astype(jnp.float32))
        wanted = coding.encode(outputs["anchor_boxes"], outputs["sampled_anchors"], variances=ANCHOR_VARIANCES)
        shifts = sum_errors(outputs["shifts"], wanted, positive, self.anchor_beta)
        anchors = jnp.sum(mask, dtype=jnp.float32)

        regions, matched = self.region_terms(outputs, batch)
        terms = {
            "objectness": Mean(jnp.sum(binary, where=mask), anchors),
            "proposals": Mean(shifts, anchors),
        }
        return terms | regions, logs | matched

    def propose_fields(
        self, model: ProposerT, boxes: Float[np.ndarray, "n 4"], weights: Float[np.ndarray, " n"], size: Size
    ) -> Iterator[dict[str, Any]]:
        """Yield scale, octaves, span and ratios of the anchors."""
        return propose_anchors(boxes, weights, model.strides, model.octaves, spans=True)

    def matchable(
        self, geometry: PyramidAnchors, boxes: Float[np.ndarray, "m 4"], size: Size
    ) -> Bool[np.ndarray, " m"]:
        """Return which boxes have an IoU of config.task.negative_iou or more with an anchor.

        An object's best anchor learns it at any IoU.
        """
        return match_grids(boxes, geometry["anchors"], self.negative_iou)
