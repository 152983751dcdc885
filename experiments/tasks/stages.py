"""R-CNN's last two stages, SVMs and box regressions (Girshick et al. 2014, "Rich feature hierarchies ...").

Each is solved for on stored features of regions, before the first step. It has no loss and no steps of training.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from experiments.solvers import SVMSettings, fit_regressions, fit_svms
from experiments.tasks.base import Arrays, Means, Outputs, SolvedTask, Stored, normalise
from experiments.tasks.dense import COVERED, Detection, Geometry
from experiments.tasks.regions import VARIANCES
from fields import Count, Positive, Share
from input_pipeline.batch import Size
from models.detection.regions import RegionModel
from models.ops import boxes as ops
from models.ops import coding


class Stage(Detection[RegionModel], SolvedTask[RegionModel]):
    """A stage that trains a model with `head="svm"`.

    A detection's score is 1 / (1 + exp(-margin)). It is 0.5 at the SVM's decision border. Scores have the order of the
    margins, but they are not probabilities.
    """

    needs = ("boxes", "proposals")
    reads = "regions"
    advice = ""
    remedy = "set config.model.head='svm'"
    builds_on = ()

    def apply(self, model: RegionModel, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Run the network on the proposals, `regions` [B,R,4] with the mask `region_mask` [B,R]."""
        outputs = model.classify(self.features(model, batch), batch["proposals"], train=False)
        return {"regions": batch["proposals"], "region_mask": batch["proposal_mask"]} | outputs

    def features(self, model: RegionModel, batch: Arrays) -> dict[int, Float[Array, "b _h _w _c"]]:
        """Compute the features of whole images by stride."""
        return model.features(normalise(batch["image"], self.mean, self.std), train=False)

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        return {}, {"boxes_lost": self.boxes_lost(batch)}

    def decode(self, outputs: Outputs, size: Size) -> tuple[Float[Array, "b r c 4"], Float[Array, "b r c"]]:
        """Decode a box for each region and class, and its score, which is -inf in padding."""
        boxes = coding.decode(outputs["offsets"][:, :, 1:], outputs["regions"][:, :, None], variances=VARIANCES)
        scores = jax.nn.sigmoid(outputs["logits"][..., 1:] - outputs["logits"][..., :1])
        return boxes, jnp.where(outputs["region_mask"][..., None], scores, -jnp.inf)

    def matchable(self, geometry: Geometry, boxes: Float[np.ndarray, "m 4"], size: Size) -> Bool[np.ndarray, " m"]:
        """Return True for all boxes, because all can be learned from."""
        return np.ones(len(boxes), bool)


class SVMTask(Stage):
    """A linear SVM for each class on the features of fc7 (section 2.3).

    The positives of a class are its objects. Its negatives are the proposals and objects with an IoU below `negative_iou` with
    each of its objects, those not trained on included. All other regions do not count. Hard negatives are mined in `passes`
    over all images, and an SVM is solved for again after `hard_negatives` new ones. The other fields are those of
    solvers.SVMSettings.
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

    def describe(self, model: RegionModel, batch: Arrays) -> tuple[Arrays, Bool[Array, "b n"]]:
        """Return `features` [B,N,fc], `positive` [B,N] and `negative` [B,N,C] of objects and proposals, and their mask.

        `positive` is the class that a region is a positive of, -1 for none. `negative` is True for the classes that it is a
        negative of.
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

    def solve(self, stored: Iterable[Mapping[str, Stored]]) -> tuple[dict[str, Stored], dict[str, float]]:
        """Solve for the SVMs, and log each class's objective."""
        weights, biases, objectives = fit_svms(stored, len(self.class_names), self.settings)
        logs = {f"objective/{name}": value for name, value in zip(self.class_names, objectives, strict=True)}
        return dict(zip(self.solves, (weights[None, None], biases), strict=True)), logs


class BoxRegression(Stage):
    """A linear regression of boxes for each class, on the features of pool5 (appendix C).

    It learns from the proposals with an IoU above `regression_iou` with an object. The target of a proposal is the object with
    the largest IoU. `ridge` weights the squared norm, for features that are scaled to an average norm of `feature_norm`.
    """

    solves = ("box_head/offsets/kernel", "box_head/offsets/bias")
    builds_on = SVMTask.solves[:1]

    def __init__(self, *, regression_iou: Share, ridge: Positive, feature_norm: Positive, **detection):
        super().__init__(**detection)
        self.regression_iou, self.ridge, self.feature_norm = regression_iou, ridge, feature_norm

    def describe(self, model: RegionModel, batch: Arrays) -> tuple[Arrays, Bool[Array, "b p"]]:
        """Return `features` [B,P,D] of the proposals, `class` [B,P] and `targets` [B,P,4] of their objects, and a mask."""
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

    def solve(self, stored: Iterable[Mapping[str, Stored]]) -> tuple[dict[str, Stored], dict[str, float]]:
        """Solve for the regressions, and log the share of the variance of each class's targets that they explain."""
        count = len(self.class_names)
        weights, biases, explained = fit_regressions(stored, count, ridge=self.ridge, feature_norm=self.feature_norm)
        logs = {f"explained/{name}": value for name, value in zip(self.class_names, explained, strict=True)}
        return dict(zip(self.solves, (weights.reshape(1, 1, -1, 4 * count), biases.reshape(-1)), strict=True)), logs
