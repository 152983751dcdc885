"""Mask R-CNN's losses: those of Faster R-CNN, and of each object's mask (He et al. 2017, "Mask R-CNN", section 3)."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.tasks.base import Arrays, Mean, Means
from experiments.tasks.faster_rcnn import FasterRCNNTask
from models.ops import masks

DETECTIONS = ("boxes", "scores", "classes", "valid")


class MaskRCNNTask(FasterRCNNTask):
    """Faster R-CNN, and a mask for each region; its fields are FasterRCNNTask's.

    In training the head of masks sees the sampled regions of objects, in evaluation the detections that stay.
    """

    needs = ("boxes", "masks")
    reads = "proposals, regions and masks"

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """Run all stages: FasterRCNNTask's outputs, and `mask_logits` [B,N,28,28] of each region's own class.

        In training N is the most regions of objects that a sample has; with them are `mask_targets` [B,N,28,28] and
        `mask_positive` [B,N], where there is one: an object whose mask is empty has none to learn. In evaluation N are the
        detections, which the outputs hold too.
        """
        features, outputs = self.run_stages(model, batch, train=train, rngs=rngs)
        if not train:
            found = super().predict(outputs, batch)
            logits = model.segment(features, found["boxes"])
            return outputs | found | {"mask_logits": _choose_class(logits, found["classes"] + 1)}
        most = max(1, int(self.regions * self.region_share))
        first = (
            "regions",
            "region_boxes",
            "region_classes",
            "region_objects",
        )  # a sample has its objects' regions first
        regions, boxes, classes, objects = (outputs[name][:, :most] for name in first)
        size = (logits := model.segment(features, regions)).shape[2:4]
        own = jnp.take_along_axis(batch["masks"], objects[..., None, None], 1)
        return outputs | {
            "mask_logits": _choose_class(logits, classes),
            "mask_targets": jax.vmap(partial(masks.crop, size=size))(own, boxes, regions),
            "mask_positive": (classes > 0) & own.any((2, 3)),
        }

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """FasterRCNNTask's terms, and in training `masks`."""
        terms, logs = super().loss(outputs, batch)
        return (terms | {"masks": self.masks_loss(outputs)} if "mask_targets" in outputs else terms), logs

    def masks_loss(self, outputs: Arrays) -> Mean:
        """The binary cross-entropy of the masks of the objects' own classes, over all cells (section 3)."""
        cost = optax.sigmoid_binary_cross_entropy(outputs["mask_logits"], outputs["mask_targets"]).mean((2, 3))
        positive = outputs["mask_positive"]
        return Mean(jnp.sum(cost, where=positive), jnp.sum(positive, dtype=jnp.float32))

    def predict(self, outputs: Arrays, batch: Arrays) -> Arrays:
        """Detections as Detection's, and `masks` [B,D,28,28]: the probability at the cells' centres over each box."""
        return {name: outputs[name] for name in DETECTIONS} | {"masks": jax.nn.sigmoid(outputs["mask_logits"])}


def _choose_class(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """logits [B,N,h,w,1+C] of the classes [B,N], background 0: [B,N,h,w]."""
    chosen = jax.nn.one_hot(classes, logits.shape[-1])
    return jnp.einsum("bnhwc,bnc->bnhw", logits, chosen, precision=jax.lax.Precision.HIGHEST)  # as they are
