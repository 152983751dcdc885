"""Mask R-CNN's losses, which are Faster R-CNN's and one of masks (He et al. 2017, "Mask R-CNN", section 3)."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.tasks.base import Arrays, Mean, Means, Outputs
from experiments.tasks.faster_rcnn import FasterRCNNTask
from models.detection.mask_rcnn import MaskRCNN
from models.ops import masks

DETECTIONS = ("boxes", "scores", "classes", "valid")


class MaskRCNNTask(FasterRCNNTask[MaskRCNN]):
    """Faster R-CNN with a mask for each region. Its fields are FasterRCNNTask's.

    The mask head runs on the sampled regions of objects in training, and on the final detections in evaluation.
    """

    needs = ("boxes", "masks")
    reads = "proposals, regions and masks"

    def apply(self, model: MaskRCNN, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Run all stages. Return FasterRCNNTask's outputs, and `mask_logits` [B,N,28,28] of each region's class.

        In training N is the largest number of objects' regions in a sample. The outputs then contain `mask_targets`
        [B,N,28,28] and `mask_positive` [B,N], which is False for background and for objects with an empty mask. In
        evaluation N is the number of detections, which the outputs also contain.
        """
        features, outputs = self.run_stages(model, batch, train=train, rngs=rngs)
        if not train:
            found = super().predict(outputs, batch)
            logits = model.segment(features, found["boxes"])
            return outputs | found | {"mask_logits": _choose_class(logits, found["classes"] + 1)}
        most = max(1, int(self.regions * self.region_share))
        # The regions of objects are the first ones of a sample.
        names = ("regions", "region_boxes", "region_classes", "region_objects")
        regions, boxes, classes, objects = (outputs[name][:, :most] for name in names)
        logits = model.segment(features, regions)
        _, _, height, width, _ = logits.shape
        own = jnp.take_along_axis(batch["masks"], objects[..., None, None], 1)
        return outputs | {
            "mask_logits": _choose_class(logits, classes),
            "mask_targets": jax.vmap(partial(masks.crop, size=(height, width)))(own, boxes, regions),
            "mask_positive": (classes > 0) & own.any((2, 3)),
        }

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return FasterRCNNTask's terms, and in training `masks`."""
        terms, logs = super().loss(outputs, batch)
        return (terms | {"masks": self.masks_loss(outputs)} if "mask_targets" in outputs else terms), logs

    def masks_loss(self, outputs: Outputs) -> Mean:
        """Return the binary cross-entropy of the masks of the objects' own classes, the mean over all cells (section 3)."""
        cost = optax.sigmoid_binary_cross_entropy(outputs["mask_logits"], outputs["mask_targets"]).mean((2, 3))
        positive = outputs["mask_positive"]
        return Mean(jnp.sum(cost, where=positive), jnp.sum(positive, dtype=jnp.float32))

    def predict(self, outputs: Outputs, batch: Arrays) -> Arrays:
        """Return the predictions of Detection, and `masks` [B,D,28,28], probabilities at the centres of cells of each box."""
        return {name: outputs[name] for name in DETECTIONS} | {"masks": jax.nn.sigmoid(outputs["mask_logits"])}


def _choose_class(logits: Float[Array, "b n h w classes"], classes: Int[Array, "b n"]) -> Float[Array, "b n h w"]:
    """Return the logits of each region's class, where class 0 is background."""
    chosen = jax.nn.one_hot(classes, logits.shape[-1])
    # The highest precision keeps every bit of the logits.
    return jnp.einsum("bnhwc,bnc->bnhw", logits, chosen, precision=jax.lax.Precision.HIGHEST)
