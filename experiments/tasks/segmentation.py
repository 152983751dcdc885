"""Semantic segmentation: a class for every pixel."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from errors import UserError
from experiments.tasks.base import Arrays, Mean, Means, Task, normalise
from experiments.tasks.losses import Losses, check_class_weights, make_losses, pixel_weights
from fields import NotNegative
from input_pipeline.batch import IGNORE, Size


class Segmentation(Task):
    """Losses of every pixel, and the most probable class. Pixels labelled 255 count nowhere.

    A model's logits may be smaller than its input (unpadded convolutions): config.data.margin is then what they lack at
    each side, and they predict the label's centre.
    """

    needs = ("label",)
    reads = "logits of pixels"
    trains = ()

    def __init__(
        self,
        *,
        class_names: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        margin: int,
        class_weights: tuple[NotNegative, ...],
        losses: Losses,
    ):
        """Takes the losses, and the weights of pixels by true class, () for 1: `--mode=datacheck` counts median frequency's."""
        check_class_weights(class_weights, len(class_names))
        self.class_names, self.margin, self.class_weights = class_names, margin, class_weights
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.losses = make_losses(losses)

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """`logits` [B,h,w,C]."""
        return {"logits": model(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)}

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """Each of config.task.losses, a mean over the pixels by their weights."""
        logits = outputs["logits"].astype(jnp.float32)
        label, weight = self.targets(logits, batch)
        total = jnp.sum(weight)
        terms = {
            name: Mean(jnp.sum(loss(logits, label, weight)), total, factor)
            for name, (factor, loss) in self.losses.items()
        }
        return terms, {"pixel_accuracy": accuracy(logits, label, batch["example_mask"])}

    def targets(self, logits: jax.Array, batch: Arrays) -> tuple[jax.Array, jax.Array]:
        """The label and the weight [B,h,w] of each pixel of the logits [B,h,w,C].

        Raises UserError where config.data.margin is not what the logits lack.
        """
        size = batch["image"].shape[1:3]
        expected = tuple(side - 2 * self.margin for side in size)
        if logits.shape[1:3] != expected:
            lost = {(side - kept) / 2 for side, kept in zip(size, logits.shape[1:3], strict=True)}
            raise UserError(
                f"config.data.margin={self.margin}: the model answers {logits.shape[1]}x{logits.shape[2]} pixels of a "
                f"{size[0]}x{size[1]} input; the margin must be {' or '.join(f'{m:g}' for m in lost)}"
            )
        label = _centre(batch["label"], expected)
        weight_map = _centre(batch["weight_map"], expected) if "weight_map" in batch else None
        return label, pixel_weights(label, batch["example_mask"], self.class_weights, weight_map)

    def predict(self, outputs: Arrays, batch: Arrays) -> Arrays:
        """`probability` [B,h,w,C] float32, at the size of the model's logits."""
        return {"probability": jax.nn.softmax(outputs["logits"].astype(jnp.float32))}


def accuracy(logits: jax.Array, label: jax.Array, example_mask: jax.Array) -> Mean:
    """The share of the labelled pixels whose most probable class is right."""
    counted = (label != IGNORE) & example_mask[:, None, None]
    right = counted & (jnp.argmax(logits, -1) == label)
    return Mean(jnp.sum(right, dtype=jnp.float32), jnp.sum(counted, dtype=jnp.float32))


def _centre(array: jax.Array, size: Size) -> jax.Array:
    """The middle `size` of [B,H,W,...]."""
    top, left = (array.shape[1] - size[0]) // 2, (array.shape[2] - size[1]) // 2
    return array[:, top : top + size[0], left : left + size[1]]
