"""Segmentation with a discriminator, which distinguishes ground truth from predictions (Isola et al. 2017, section 3)."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from experiments.tasks.base import Arrays, Mean, Means, Outputs, normalise
from experiments.tasks.segmentation import Segmentation
from fields import NotNegative
from input_pipeline.batch import IGNORE
from models.segmentation.pix2pix import Pix2Pix


class AdversarialSegmentation(Segmentation[Pix2Pix]):
    """Segmentation that also trains a discriminator. Evaluation and prediction do not use it.

    One scalar loss trains both networks. In the discriminator's terms the predictions are constants, and in the generator's
    terms the discriminator is constant, so that each network gets the gradient of its own objective. The generator minimises
    config.task.losses plus `config.task.adversarial` times the cross-entropy of being taken for ground truth; the paper's
    100 L1 + GAN is 1 and 0.01 here. The discriminator minimises half of its cross-entropy (the paper's section 3.3). Pixels
    without a class are blank in both maps.
    """

    trains = ("discriminator",)

    def __init__(self, *, adversarial: NotNegative, **segmentation):
        """Take the fields of Segmentation, and `adversarial`, the factor on the term `generator`."""
        super().__init__(**segmentation)
        self.adversarial = adversarial

    def apply(self, model: Pix2Pix, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Return `logits`, and in training the discriminator's logits that a map is ground truth, [B,h,w,1] each.

        `real` judges the ground truth. `fake` judges the predictions as constants, and `fooled` judges them by a constant
        discriminator.
        """
        outputs = super().apply(model, batch, train=train, rngs=rngs)
        if not train:
            return outputs
        logits = outputs["logits"].astype(jnp.float32)
        label, _ = self.targets(logits, batch)
        image = normalise(batch["image"], self.mean, self.std)
        truth = jax.nn.one_hot(label, len(self.class_names), dtype=jnp.float32)
        predicted = jnp.where((label != IGNORE)[..., None], jax.nn.softmax(logits), 0.0)

        # A copy whose variables are constants: `fooled` changes neither batch statistics nor gradients of the discriminator.
        graphdef, state = nnx.split(model)
        fixed = nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, state), copy=True)
        return outputs | {
            "fooled": fixed.discriminate(image, predicted, train=True),
            "real": model.discriminate(image, truth, train=True),
            "fake": model.discriminate(image, jax.lax.stop_gradient(predicted), train=True),
        }

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return the terms of Segmentation, and in training `generator` and `discriminator`."""
        terms, logs = super().loss(outputs, batch)
        if "fooled" in outputs:
            _, weight = self.targets(outputs["logits"], batch)
            share, total = jnp.sum(weight, axis=(1, 2)), jnp.sum(weight)  # an image counts by its pixels' weights
            discriminator = verdict(outputs["real"], 1.0, share) + verdict(outputs["fake"], 0.0, share)
            terms["generator"] = Mean(verdict(outputs["fooled"], 1.0, share), total, self.adversarial)
            terms["discriminator"] = Mean(0.5 * discriminator, total)
        return terms, logs


def verdict(logits: Float[Array, "b h w 1"], truth: float, share: Float[Array, " b"]) -> Float[Array, ""]:
    """Return the cross-entropy of the patches against `truth`, 1 (real) or 0 (predicted), summed by the images' `share`."""
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, truth))
    return jnp.sum(jnp.mean(losses, axis=(1, 2, 3)) * share)
