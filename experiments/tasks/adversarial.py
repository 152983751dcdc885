"""Segmentation with a discriminator (Isola et al. 2017, section 3): it distinguishes the ground truth from predictions."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.tasks.base import Arrays, Mean, Means, normalise
from experiments.tasks.segmentation import Segmentation
from fields import NotNegative
from input_pipeline.batch import IGNORE


class AdversarialSegmentation(Segmentation):
    """Segmentation with a model that has `discriminate(images, maps, train=)`; in training alone.

    Both play in one scalar. The discriminator's own part sees predictions as constants, the generator's part sees a
    discriminator of constants, so that each gets the gradient of its own objective. The generator's is config.task.losses
    plus `config.task.adversarial` times the discriminator's verdict; the paper's 100 L1 + GAN is 1 and 0.01 here. The
    discriminator's is half of its cross-entropy (the paper's section 3.3). Pixels without a class are blank in both maps.
    """

    trains = ("discriminator",)

    def __init__(self, *, adversarial: NotNegative, **segmentation):
        """Takes what Segmentation takes, and `adversarial`, the factor on the discriminator's verdict in the generator's loss."""
        super().__init__(**segmentation)
        self.adversarial = adversarial

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """`logits`; in training the verdicts `fooled`, `real` and `fake` [B,h,w,1] too, logits of "this map is true"."""
        outputs = super().apply(model, batch, train=train, rngs=rngs)
        if not train:
            return outputs
        logits = outputs["logits"].astype(jnp.float32)
        label, _ = self.targets(logits, batch)
        image = normalise(batch["image"], self.mean, self.std)
        truth = jax.nn.one_hot(label, len(self.class_names), dtype=jnp.float32)
        predicted = jnp.where((label != IGNORE)[..., None], jax.nn.softmax(logits), 0.0)

        # Copies of constants: what the generator's part does to batch statistics and gradients ends with them.
        graphdef, state = nnx.split(model)
        fixed = nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, state), copy=True)
        return outputs | {
            "fooled": fixed.discriminate(image, predicted, train=True),
            "real": model.discriminate(image, truth, train=True),
            "fake": model.discriminate(image, jax.lax.stop_gradient(predicted), train=True),
        }

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """Segmentation's terms; in training `generator` and `discriminator` too."""
        terms, logs = super().loss(outputs, batch)
        if "fooled" in outputs:
            _, weight = self.targets(outputs["logits"], batch)
            share, total = jnp.sum(weight, axis=(1, 2)), jnp.sum(weight)  # an image counts as much as its pixels do
            discriminator = verdict(outputs["real"], 1.0, share) + verdict(outputs["fake"], 0.0, share)
            terms["generator"] = Mean(verdict(outputs["fooled"], 1.0, share), total, self.adversarial)
            terms["discriminator"] = Mean(0.5 * discriminator, total)
        return terms, logs


def verdict(logits: jax.Array, truth: float, share: jax.Array) -> jax.Array:
    """Cross-entropy of the patches [B,h,w,1] against the target 1 (real) or 0 (predicted), images weighted by `share` [B]."""
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, truth))
    return jnp.sum(jnp.mean(losses, axis=(1, 2, 3)) * share)
