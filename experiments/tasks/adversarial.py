"""Segmentation beside a discriminator (Isola et al. 2017, section 3): it tells maps of the ground truth from predicted ones."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from errors import UserError
from experiments.tasks.base import Arrays, Sum
from experiments.tasks.losses import Losses, sum_losses
from experiments.tasks.segmentation import Segmentation, accuracy
from fields import NotNegative
from input_pipeline.batch import IGNORE


class AdversarialSegmentation(Segmentation):
    """Segmentation with a model that has `discriminate(images, maps, train=)`; in training alone.

    Both play in one scalar. The discriminator's own part sees predictions as constants, the generator's part sees a
    discriminator of constants, so that each gets the gradient of its own objective. The generator's is config.task.losses
    plus `config.task.adversarial` times the discriminator's verdict; the paper's 100 L1 + GAN is 1 and 0.01 here. The
    discriminator's is half of its cross-entropy (the paper's section 3.3). Pixels without a class are blank in both maps.
    """

    def __init__(
        self,
        *,
        class_names: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        margin: int,
        class_weights: tuple[NotNegative, ...],
        losses: Losses,
        adversarial: NotNegative,
    ):
        """`adversarial` is the discriminator's part of the generator's loss, the others are those of Segmentation."""
        super().__init__(
            class_names=class_names, mean=mean, std=std, margin=margin, class_weights=class_weights, losses=losses
        )
        self.adversarial = adversarial

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """As Segmentation's; in training with `pixels`, `generator`, and `discriminator` logged beside it."""
        if not train:
            return super().loss(model, batch, train, rngs)
        if getattr(model, "discriminator", None) is None:
            raise UserError(
                "config.task.name=adversarial_segmentation needs a model with a discriminator, such as pix2pix"
            )
        logits, label, weight = self._answers(model, batch, train, rngs)
        (pixels, total), logs = sum_losses(self.losses, logits, label, weight)
        image = self._normalise(batch["image"])
        known = (label != IGNORE)[..., None]
        truth = jax.nn.one_hot(label, len(self.class_names), dtype=jnp.float32)
        predicted = jnp.where(known, jax.nn.softmax(logits), 0.0)

        # Copies of constants: what the generator's part does to batch statistics and gradients ends with them.
        graphdef, state = nnx.split(model)
        fixed = nnx.merge(graphdef, jax.tree.map(jax.lax.stop_gradient, state), copy=True)
        share = jnp.sum(weight, axis=(1, 2))  # an image counts as much as its pixels do
        fooled = _verdict(fixed.discriminate(image, predicted, train=True), 1.0, share)
        real = _verdict(model.discriminate(image, truth, train=True), 1.0, share)
        fake = _verdict(model.discriminate(image, jax.lax.stop_gradient(predicted), train=True), 0.0, share)
        discriminator = 0.5 * (real + fake)
        logs |= {"pixels": (pixels, total), "generator": (fooled, total), "discriminator": (discriminator, total)}
        logs["pixel_accuracy"] = accuracy(logits, label, batch["example_mask"])
        return (pixels + self.adversarial * fooled + discriminator, total), logs


def _verdict(logits: jax.Array, truth: float, share: jax.Array) -> jax.Array:
    """Cross-entropy of each image's patches [B,h,w,1] with real (1) or predicted (0), the images weighted by `share` [B]."""
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, truth))
    return jnp.sum(jnp.mean(losses, axis=(1, 2, 3)) * share)
