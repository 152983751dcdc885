"""The stages of R-CNN after its network (Girshick et al. 2014, "Rich feature hierarchies ..."): SVMs, then a regression of boxes.

Each is solved for on stored features of regions, before the first step, and has no loss.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.solvers import SVMSettings, fit_regressions, fit_svms
from experiments.tasks.base import Arrays, Means, normalise
from experiments.tasks.dense import COVERED, Detection
from experiments.tasks.regions import VARIANCES
from fields import Count, Positive, Share
from input_pipeline.batch import Size
from models.ops import boxes as ops
from models.ops import coding


class Stage(Detection):
    """A task of a model with `head="svm"`. Detections are scored by 1 / (1 + exp(-margin)): 0.5 is the SVM's border.

    The order of the scores is the order of the margins. A score is not a probability.
    """

    needs = ("boxes", "proposals")
    reads = "regions"
    advice = ""
    remedy = "set config.model.head='svm'"
    builds_on = ()

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """Run the network on the proposals, `regions` [B,R,4] with their mask `region_mask` [B,R]."""
        outputs = model.classify(self.features(model, batch), batch["proposals"], train=False)
        return {"regions": batch["proposals"], "region_mask": batch["proposal_mask"]} | outputs

    def features(self, model: nnx.Module, batch: Arrays) -> dict[int, jax.Array]:
        """Compute the features of whole images, {stride: [B,h,w,C]}."""
        return model.features(normalise(batch["image"], self.mean, self.std), train=False)

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        return {}, {"boxes_lost": self.boxes_lost(batch)}

    def decode(self, outputs: Arrays, size: Size) -> tuple[jax.Array, jax.Array]:
        """Decode a box for each region and class, [B,R,C,4], and its score [B,R,C], which is -inf in padding."""
        boxes = coding.decode(outputs["offsets"][:, :, 1:], outputs["regions"][:, :, None], variances=VARIANCES)
        scores = jax.nn.sigmoid(outputs["logits"][..., 1:] - outputs["logits"][..., :1])
        return boxes, jnp.where(outputs["region_mask"][..., None], scores, -jnp.inf)

    def matchable(self, geometry: object, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Tell that all boxes can be learned from."""
        return np.ones(len(boxes), bool)


class SVMTask(Stage):
    """A linear SVM for each class on fc7 (section 2.3).

    Its positives are the objects themselves, and its negatives the proposals and the objects with an IoU below `negative_iou`
    with each object of the class. The others do not count, nor does what lies on an object that is not trained on.
    Hard negatives are mined in `passes` over all images, and an SVM is solved for again after `hard_negatives` new ones. The
    other fields are those of solvers.SVMSettings.
    """

    solves = ("box_head/margins/kernel", "box_head/margins/bias")

    def __init__(
        self,
        *,
        negative_iou: Share,
        cost: Positive,
        positive_weight: Positive,
        bias_scale: Positive,
        feature_norm: Positive,
        hard_negatives: Count,
        passes: Count,
        **detection,
    ):
        super().__init__(**detection)
        self.negative_iou = negative_iou
        self.settings = SVMSettings(cost, positive_weight, bias_scale, feature_norm, hard_negatives, passes)

    def describe(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array]:
        """Describe objects and proposals: `features` [B,N,fc], the class each is a `positive` of, and `negative` [B,N,C].

        `positive` [B,N] is -1 for none.
        """
        boxes, learned = jnp.concatenate([batch["boxes"], batch["proposals"]], 1), self.learnable(batch)
        _, hidden = model.describe(self.features(model, batch), boxes)
        overlaps = ops.pairwise_iou(boxes, batch["boxes"])
        covered = ops.pairwise_coverage(boxes, batch["boxes"]) >= COVERED
        near = jnp.where(batch["crowd"][:, None], covered, overlaps >= self.negative_iou) & batch["valid"][:, None]
        of_class = batch["classes"][..., None] == jnp.arange(len(self.class_names))
        positive = jnp.where(learned, batch["classes"], -1)
        described = {
            "features": hidden,
            "positive": jnp.pad(positive, ((0, 0), (0, batch["proposals"].shape[1])), constant_values=-1),
            "negative": ~(near[..., None] & of_class[:, None]).any(2),
        }
        return described, jnp.concatenate([learned, batch["proposal_mask"]], 1) & batch["example_mask"][:, None]

    def solve(self, stored: Iterable[Mapping[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Solve for the SVMs. What is logged is each class's objective."""
        weights, biases, objectives = fit_svms(stored, len(self.class_names), self.settings)
        logs = {f"objective/{name}": value for name, value in zip(self.class_names, objectives, strict=True)}
        return dict(zip(self.solves, (weights[None, None], biases), strict=True)), logs


class BoxRegression(Stage):
    """A linear regression of boxes for each class, on what the head sees of a region: pool5 (appendix C).

    It learns from the proposals with an IoU above `regression_iou` with an object, each from the object that it overlaps most.
    `ridge` is the weight of the squared norm, of features that are scaled to a norm of `feature_norm` on average.
    """

    solves = ("box_head/offsets/kernel", "box_head/offsets/bias")
    builds_on = SVMTask.solves[:1]

    def __init__(self, *, regression_iou: Share, ridge: Positive, feature_norm: Positive, **detection):
        super().__init__(**detection)
        self.regression_iou, self.ridge, self.feature_norm = regression_iou, ridge, feature_norm

    def describe(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array]:
        """Describe the proposals: `features` [B,P,D], and the `class` [B,P] and the `targets` [B,P,4] of each one's object."""
        proposals = batch["proposals"]
        pooled, _ = model.describe(self.features(model, batch), proposals)
        overlaps = jnp.where(self.learnable(batch)[:, None], ops.pairwise_iou(proposals, batch["boxes"]), 0.0)
        nearest = overlaps.argmax(-1)
        objects = jnp.take_along_axis(batch["boxes"], nearest[..., None], 1)
        described = {
            "features": pooled,
            "class": jnp.take_along_axis(batch["classes"], nearest, 1),
            "targets": coding.encode(objects, proposals, variances=VARIANCES),
        }
        return described, batch["proposal_mask"] & (overlaps.max(-1) > self.regression_iou)

    def solve(self, stored: Iterable[Mapping[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Solve for the regressions. What is logged is the share of each class's targets that they explain."""
        count = len(self.class_names)
        weights, biases, explained = fit_regressions(stored, count, ridge=self.ridge, feature_norm=self.feature_norm)
        logs = {f"explained/{name}": value for name, value in zip(self.class_names, explained, strict=True)}
        return dict(zip(self.solves, (weights.reshape(1, 1, -1, 4 * count), biases.reshape(-1)), strict=True)), logs
