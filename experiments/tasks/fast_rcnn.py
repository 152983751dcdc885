"""Fast R-CNN's loss of regions that are proposed beforehand (Girshick 2015, "Fast R-CNN", section 2.3)."""

import numpy as np
from flax import nnx

from experiments.tasks.base import Arrays, Means, normalise
from experiments.tasks.regions import RegionDetection
from input_pipeline.batch import Size


class FastRCNNTask(RegionDetection):
    """The class and the box of each of an image's stored proposals; its fields are RegionDetection's.

    It serves every model of regions: whether a model shares its features among them is not its concern.
    """

    needs = ("boxes", "proposals")
    reads = "regions"
    advice = ""

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """Run the network on `regions` [B,R,4], which have a mask `region_mask` [B,R].

        In evaluation they are the proposals, in training a sample of them and of the objects' boxes, with their targets.
        """
        features = model.features(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)
        regions = {"regions": batch["proposals"], "region_mask": batch["proposal_mask"]}
        if train:
            regions = self.sample_regions(*regions.values(), batch, rngs.sampling())
        return regions | model.classify(features, regions["regions"], train=train, rngs=rngs)

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """Equation 1, over all sampled regions. Evaluation samples nothing and has no terms."""
        logs = {"boxes_lost": self.boxes_lost(batch)}
        if "region_classes" not in outputs:
            return {}, logs
        terms, matched = self.region_terms(outputs, batch)
        return terms, logs | matched

    def matchable(self, geometry: object, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Tell that all boxes can be learned: in training they are regions themselves."""
        return np.ones(len(boxes), bool)
