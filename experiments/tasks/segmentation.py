"""Semantic segmentation, which predicts a class for each pixel."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from errors import UserError
from experiments.tasks.base import Arrays, Mean, Means, Outputs, Task, image_size, normalise
from experiments.tasks.losses import Losses, check_class_weights, make_losses, pixel_weights
from fields import NotNegative
from input_pipeline.batch import IGNORE, Size

SegmenterT = TypeVar("SegmenterT", bound=nnx.Module, contravariant=True)


class Segmentation(Task[SegmenterT]):
    """Losses over pixels, and a probability of each class for each pixel. Pixels labelled 255 count nowhere.

    A model's logits may be smaller than its input (unpadded convolutions). They then predict the centre of the label, and
    config.data.margin is the number of pixels that they lack at each side.
    """

    needs = ("label",)
    reads = "pixel logits"
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
        """Check the fields. `class_weights` weight pixels by their true class, and () is 1 for all.

        `--mode=datacheck` prints the weights of median frequency balancing.
        """
        check_class_weights(class_weights, len(class_names))
        self.class_names, self.margin, self.class_weights = class_names, margin, class_weights
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.losses = make_losses(losses)

    def apply(self, model: SegmenterT, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Return `logits` [B,h,w,C]."""
        return {"logits": model(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)}

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return each of config.task.losses as a weighted mean over the pixels."""
        logits = outputs["logits"].astype(jnp.float32)
        label, weight = self.targets(logits, batch)
        total = jnp.sum(weight)
        terms = {
            name: Mean(jnp.sum(loss(logits, label, weight)), total, factor)
            for name, (factor, loss) in self.losses.items()
        }
        return terms, {"pixel_accuracy": accuracy(logits, label, batch["example_mask"])}

    def targets(
        self, logits: Float[Array, "b h w c"], batch: Arrays
    ) -> tuple[UInt8[Array, "b h w"], Float[Array, "b h w"]]:
        """Return the label and the weight of each pixel of the logits.

        Raises UserError if the logits are not config.data.margin smaller than the input at each side.
        """
        height, width = image_size(batch)
        expected = height - 2 * self.margin, width - 2 * self.margin
        if logits.shape[1:3] != expected:
            lost = {(side - kept) / 2 for side, kept in zip((height, width), logits.shape[1:3], strict=True)}
            raise UserError(
                f"config.data.margin={self.margin}: the model returns {logits.shape[1]}x{logits.shape[2]} pixels for a "
                f"{height}x{width} input; the margin must be {' or '.join(f'{m:g}' for m in lost)}"
            )
        label = _centre(batch["label"], expected)
        weight_map = _centre(batch["weight_map"], expected) if "weight_map" in batch else None
        return label, pixel_weights(label, batch["example_mask"], self.class_weights, weight_map)

    def predict(self, outputs: Outputs, batch: Arrays) -> Arrays:
        """Return `probability` [B,h,w,C] float32, at the size of the model's logits."""
        return {"probability": jax.nn.softmax(outputs["logits"].astype(jnp.float32))}


def accuracy(logits: Float[Array, "b h w c"], label: UInt8[Array, "b h w"], example_mask: Bool[Array, " b"]) -> Mean:
    """Return the share of the labelled pixels whose most probable class is right."""
    counted = (label != IGNORE) & example_mask[:, None, None]
    right = counted & (jnp.argmax(logits, -1) == label)
    return Mean(jnp.sum(right, dtype=jnp.float32), jnp.sum(counted, dtype=jnp.float32))


def _centre(array: Shaped[Array, "b _ _"], size: Size) -> Shaped[Array, "b {size[0]} {size[1]}"]:
    """Return the `size` (height, width) in the middle of an array."""
    top, left = (array.shape[1] - size[0]) // 2, (array.shape[2] - size[1]) // 2
    return array[:, top : top + size[0], left : left + size[1]]
