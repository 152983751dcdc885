"""Semantic segmentation: a class for every pixel."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from errors import UserError
from experiments.tasks.base import Arrays, Sum
from experiments.tasks.losses import Losses, check_class_weights, make_losses, pixel_weights, sum_losses
from fields import NotNegative
from input_pipeline.batch import IGNORE


class Segmentation:
    """Losses of every pixel, and the most probable class. Pixels labelled 255 count nowhere.

    A model's logits may be smaller than its input (unpadded convolutions): config.data.margin is then what they lack at
    each side, and the label's centre is what they answer for.
    """

    needs = ("label",)

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
        """`class_weights` are of a pixel by its true class, () for 1; `--mode=datacheck` counts median frequency's."""
        check_class_weights(class_weights, len(class_names))
        self.class_names, self.margin, self.class_weights = class_names, margin, class_weights
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.losses = make_losses(losses)

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """The weighted sum of config.task.losses, a mean over the pixels by their weights."""
        logits, label, weight = self._answers(model, batch, train, rngs)
        total, logs = sum_losses(self.losses, logits, label, weight)
        return total, logs | {"pixel_accuracy": accuracy(logits, label, batch["example_mask"])}

    def _answers(
        self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits [B,h,w,C] float32, and the label and the weight of each of their pixels."""
        image = self._normalise(batch["image"])
        logits = model(image, train=train, rngs=rngs)
        if not hasattr(logits, "astype"):
            raise UserError(
                "config.task.name: this model's outputs are no logits of pixels; take the detector's own task"
            )
        logits = logits.astype(jnp.float32)
        expected = tuple(side - 2 * self.margin for side in image.shape[1:3])
        if logits.shape[1:3] != expected:
            lost = {(side - kept) / 2 for side, kept in zip(image.shape[1:3], logits.shape[1:3], strict=True)}
            raise UserError(
                f"config.data.margin={self.margin}: the model answers {logits.shape[1]}x{logits.shape[2]} pixels of a "
                f"{image.shape[1]}x{image.shape[2]} input; the margin must be {' or '.join(f'{m:g}' for m in lost)}"
            )
        label = _centre(batch["label"], expected)
        map_ = _centre(batch["weight_map"], expected) if "weight_map" in batch else None
        return logits, label, pixel_weights(label, batch["example_mask"], self.class_weights, map_)

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """`probability` [B,h,w,C] float32, at the size of the model's logits."""
        logits = model(self._normalise(batch["image"]), train=False).astype(jnp.float32)
        return {"probability": jax.nn.softmax(logits)}

    def _normalise(self, image: jax.Array) -> jax.Array:
        return (image.astype(jnp.float32) - self.mean) / self.std


def accuracy(logits: jax.Array, label: jax.Array, example_mask: jax.Array) -> Sum:
    counted = (label != IGNORE) & example_mask[:, None, None]
    right = counted & (jnp.argmax(logits, -1) == label)
    return jnp.sum(right, dtype=jnp.float32), jnp.sum(counted, dtype=jnp.float32)


def _centre(array, size: tuple[int, int]):
    """The middle `size` of [B,H,W,...]."""
    top, left = (array.shape[1] - size[0]) // 2, (array.shape[2] - size[1]) // 2
    return array[:, top : top + size[0], left : left + size[1]]
