"""Fast R-CNN's loss on stored proposals (Girshick 2015, "Fast R-CNN", section 2.3)."""

import numpy as np
from flax import nnx
from jaxtyping import Bool, Float

from experiments.tasks.base import Arrays, Means, Outputs, normalise
from experiments.tasks.dense import Geometry
from experiments.tasks.regions import RegionDetection
from input_pipeline.batch import Size
from models.detection.regions import RegionModel


class FastRCNNTask(RegionDetection[RegionModel]):
    """Predicts a class and a box for each of an image's stored proposals. Its fields are RegionDetection's.

    It fits every model of regions, whether or not the regions share features.
    """

    needs = ("boxes", "proposals")
    reads = "regions"
    advice = ""

    def apply(self, model: RegionModel, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Run the network on `regions` [B,R,4], with the mask `region_mask` [B,R].

        In evaluation the regions are the proposals. In training they are a sample of proposals and ground-truth boxes, and
        the outputs contain their targets.
        """
        features = model.features(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)
        regions = {"regions": batch["proposals"], "region_mask": batch["proposal_mask"]}
        if train:
            assert rngs is not None
            regions = self.sample_regions(batch["proposals"], batch["proposal_mask"], batch, rngs.sampling())
        return regions | model.classify(features, regions["regions"], train=train, rngs=rngs)

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return equation 1's terms over all sampled regions. Evaluation samples nothing and has no terms."""
        logs = {"boxes_lost": self.boxes_lost(batch)}
        if "region_classes" not in outputs:
            return {}, logs
        terms, matched = self.region_terms(outputs, batch)
        return terms, logs | matched

    def matchable(self, geometry: Geometry, boxes: Float[np.ndarray, "m 4"], size: Size) -> Bool[np.ndarray, " m"]:
        """Return True for all boxes, which are themselves regions in training."""
        return np.ones(len(boxes), bool)
