"""Semantic segmentation: a class for every pixel."""

from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from experiments import pictures
from experiments.metrics import confusion
from experiments.tasks.base import Arrays, Sum
from input_pipeline.batch import IGNORE


class Segmentation:
    """Pixelwise cross-entropy, the most probable class, and a confusion matrix. Pixels labelled 255 count nowhere.

    A model's logits may be smaller than its input (unpadded convolutions): the label's centre is what they answer for.
    """

    def __init__(self, config: ConfigDict, class_names: tuple[str, ...]):
        self.class_names = class_names
        self.smoothing = config.task.label_smoothing
        self.mean = np.asarray(config.data.mean, np.float32)
        self.std = np.asarray(config.data.std, np.float32)

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """Cross-entropy (Szegedy et al. 2016, section 7, where smoothed) summed over the pixels that count."""
        logits = model(self._normalise(batch["image"]), train=train, rngs=rngs)
        label = _centre(batch["label"], logits.shape[1:3])
        counted = (label != IGNORE) & batch["example_mask"][:, None, None]
        # One-hot instead of take_along_axis, whose gradient is a scatter. 255 has no one in it.
        target = jax.nn.one_hot(label, len(self.class_names), dtype=jnp.float32)
        target = (1.0 - self.smoothing) * target + self.smoothing / len(self.class_names)
        losses = -jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
        weight = jnp.sum(counted, dtype=jnp.float32)
        right = counted & (jnp.argmax(logits, -1) == label)
        return (
            (jnp.sum(jnp.where(counted, losses, 0.0)), weight),
            {"pixel_accuracy": (jnp.sum(right, dtype=jnp.float32), weight)},
        )

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """`probability` [B,h,w,C] float32 and `label` [B,h,w] uint8, at the size of the model's logits."""
        logits = model(self._normalise(batch["image"]), train=False).astype(jnp.float32)
        return {"probability": jax.nn.softmax(logits), "label": jnp.argmax(logits, -1).astype(jnp.uint8)}

    def measure(self, predictions: Arrays, batch: Arrays) -> jax.Array:
        """int32 [B,C,C] per image, see `confusion.count`."""
        label = _centre(batch["label"], predictions["label"].shape[1:3])
        return confusion.count(label, predictions["label"], batch["example_mask"], len(self.class_names))

    def metric(self) -> confusion.Confusion:
        return confusion.Confusion.empty(self.class_names)

    def record(self, counts: np.ndarray) -> dict:
        return confusion.image_record(counts)

    def draw(self, batch: dict[str, np.ndarray], predictions: dict[str, np.ndarray]) -> np.ndarray:
        size = predictions["label"].shape[1:3]
        images, labels = _centre(batch["image"], size), _centre(batch["label"], size)
        return pictures.comparison(images, labels, predictions["label"], self.class_names)

    def write(
        self, folder: Path, name: str, image: np.ndarray, prediction: dict[str, np.ndarray], to_original: np.ndarray
    ) -> list[Path]:
        """NAME_mask.png (class indices) and NAME_overlay.png."""
        label = restore(prediction["probability"], to_original, image.shape[:2]).argmax(-1).astype(np.uint8)
        mask, overlay = folder / f"{name}_mask.png", folder / f"{name}_overlay.png"
        pictures.write_mask(mask, label)
        pictures.write_png(overlay, pictures.overlay(image, label))
        return [mask, overlay]

    def _normalise(self, image: jax.Array) -> jax.Array:
        return (image.astype(jnp.float32) - self.mean) / self.std


def restore(values: np.ndarray, to_original: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values on a canvas [h,w,C] float32, sampled at the pixel centres of the original image: [*size,C].

    `to_original` [2,3] maps the canvas's points (x, y), measured from its corner, to the image's.
    """
    matrix = cv2.invertAffineTransform(to_original.astype(np.float64))
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV measures from the centre of the first pixel
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    planes = [
        cv2.warpAffine(plane, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        for plane in np.ascontiguousarray(np.moveaxis(values, -1, 0))
    ]
    return np.stack(planes, axis=-1)


def _centre(array, size: tuple[int, int]):
    """The middle `size` of [B,H,W,...]."""
    top, left = (array.shape[1] - size[0]) // 2, (array.shape[2] - size[1]) // 2
    return array[:, top : top + size[0], left : left + size[1]]
