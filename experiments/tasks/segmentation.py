"""Semantic segmentation: a class for every pixel."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from experiments import pictures
from experiments.errors import RunError
from experiments.metrics.boundary import BoundaryIoU
from experiments.metrics.confusion import Confusion
from experiments.metrics.partition import Partition
from experiments.tasks import losses
from experiments.tasks.base import Arrays, Metric, Output, Rows, Sum
from input_pipeline.batch import IGNORE

METRICS: dict[str, Callable[[tuple[str, ...]], Metric]] = {
    "confusion": Confusion,
    "boundary": BoundaryIoU,
    "partition": Partition,
}


TILE = 512  # pixels of an example's longer side in a picture
ROWS = 64  # that are resampled at a time


class Segmentation:
    """Losses of every pixel, the most probable class, and config.task.metrics. Pixels labelled 255 count nowhere.

    A model's logits may be smaller than its input (unpadded convolutions): config.data.margin is then what they lack at
    each side, and the label's centre is what they answer for.
    """

    def __init__(self, config: ConfigDict, class_names: tuple[str, ...]):
        self.class_names = class_names
        self.margin = config.data.margin
        self.mean = np.asarray(config.data.mean, np.float32)
        self.std = np.asarray(config.data.std, np.float32)
        self.class_weights = config.task.class_weights
        self._loss = losses.make_loss(config.task, len(class_names))
        if not config.task.metrics:
            raise RunError(f"config.task.metrics=() scores nothing; choose of {', '.join(METRICS)}")
        for name in config.task.metrics:
            if name not in METRICS:
                raise RunError(f"config.task.metrics: {name!r} is unknown; choose of {', '.join(METRICS)}")
        self._metrics = [METRICS[name] for name in config.task.metrics]

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """The weighted sum of config.task.losses, a mean over the pixels by their weights."""
        logits, label, weight = self._answers(model, batch, train, rngs)
        total, logs = self._loss(logits, label, weight)
        return total, logs | {"pixel_accuracy": accuracy(logits, label, batch["example_mask"])}

    def _answers(
        self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Logits [B,h,w,C] float32, and the label and the weight of each of their pixels."""
        image = self._normalise(batch["image"])
        logits = model(image, train=train, rngs=rngs)
        if not hasattr(logits, "astype"):
            raise RunError(
                "config.task.name: this model's outputs are no logits of pixels; take the detector's own task"
            )
        logits = logits.astype(jnp.float32)
        expected = tuple(side - 2 * self.margin for side in image.shape[1:3])
        if logits.shape[1:3] != expected:
            lost = {(side - kept) / 2 for side, kept in zip(image.shape[1:3], logits.shape[1:3], strict=True)}
            raise RunError(
                f"config.data.margin={self.margin}: the model answers {logits.shape[1]}x{logits.shape[2]} pixels of a "
                f"{image.shape[1]}x{image.shape[2]} input; the margin must be {' or '.join(f'{m:g}' for m in lost)}"
            )
        label = _centre(batch["label"], expected)
        map_ = _centre(batch["weight_map"], expected) if "weight_map" in batch else None
        return logits, label, losses.pixel_weights(label, batch["example_mask"], self.class_weights, map_)

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """`probability` [B,h,w,C] float32, at the size of the model's logits."""
        logits = model(self._normalise(batch["image"]), train=False).astype(jnp.float32)
        return {"probability": jax.nn.softmax(logits)}

    def assembly(self, size: tuple[int, int]) -> "Mosaic":
        return Mosaic(size, len(self.class_names))

    def metrics(self) -> list[Metric]:
        return [metric(self.class_names) for metric in self._metrics]

    def drawable(self, prediction: Rows) -> Rows:
        return {"label": prediction["label"]}

    def draw(self, examples: Sequence[Rows], predictions: Sequence[Rows]) -> np.ndarray:
        """All in the first one's shape, and no larger than TILE pixels."""
        shrink = min(1.0, TILE / max(examples[0]["label"].shape))
        size = tuple(max(1, round(shrink * side)) for side in examples[0]["label"].shape)

        def stacked(rows: Sequence[Rows], name: str, how: int) -> np.ndarray:
            return np.stack([cv2.resize(row[name], size[::-1], interpolation=how) for row in rows])

        images = stacked(examples, "image", cv2.INTER_AREA)
        labels = (stacked(rows, "label", cv2.INTER_NEAREST) for rows in (examples, predictions))
        return pictures.comparison(images, *labels, self.class_names)

    def output(self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int]) -> "MaskOutput":
        return MaskOutput(folder)

    def _normalise(self, image: jax.Array) -> jax.Array:
        return (image.astype(jnp.float32) - self.mean) / self.std


class MaskOutput(Output):
    """NAME_mask.png (class indices) and NAME_overlay.png for each image."""

    def __init__(self, folder: Path):
        self.folder = folder

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Rows) -> list[Path]:
        mask, overlay = self.folder / f"{name}_mask.png", self.folder / f"{name}_overlay.png"
        pictures.write_mask(mask, prediction["label"])
        pictures.write_png(overlay, pictures.overlay(image, prediction["label"]))
        return [mask, overlay]

    def close(self) -> list[Path]:
        return []


class Mosaic:
    """The mean of the class probabilities that an image's views give each of its pixels."""

    def __init__(self, size: tuple[int, int], num_classes: int):
        self._sum = np.zeros((*size, num_classes), np.float32)
        self._views = np.zeros(size, np.float32)

    def add(self, prediction: Rows, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """`probability` [h,w,C], the centre of the canvas, is sampled linearly at the image's pixel centres in it."""
        probability = prediction["probability"]
        spans, places = [], []
        for axis in (0, 1):  # rows, columns
            point = 1 - axis  # a point is (x, y)
            count = probability.shape[axis]
            scale, offset = matrix[point, point], matrix[point, 2] - (canvas[axis] - count) / 2
            place = scale * (np.arange(self._views.shape[axis]) + 0.5) + offset
            inside = np.flatnonzero((place > -1e-6) & (place < count + 1e-6))
            if not len(inside):
                return
            span = slice(inside[0], inside[-1] + 1)
            spans.append(span)
            places.append(place[span] - 0.5)
        target = self._sum[*spans]
        for first in range(0, len(target), ROWS):  # a photo's probabilities are large, and need not be held twice
            rows = _interpolate(probability, places[0][first : first + ROWS], axis=0)
            target[first : first + ROWS] += _interpolate(rows, places[1], axis=1)
        self._views[*spans] += 1

    def result(self) -> Rows:
        """`probability` [H,W,C] float32 and `label` [H,W] uint8. To be asked for once."""
        self._sum /= self._views[..., None]
        return {"probability": self._sum, "label": self._sum.argmax(-1).astype(np.uint8)}


def _interpolate(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """`values` at `places` along an axis, in pixels from the first one's centre; beyond the ends they repeat."""
    places = np.clip(places, 0, values.shape[axis] - 1)
    low = np.floor(places).astype(int)
    part = (places - low).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1 - axis))
    if not part.any():
        return values.take(low, axis)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    return values.take(low, axis) * (1 - part) + values.take(high, axis) * part


def accuracy(logits: jax.Array, label: jax.Array, example_mask: jax.Array) -> Sum:
    counted = (label != IGNORE) & example_mask[:, None, None]
    right = counted & (jnp.argmax(logits, -1) == label)
    return jnp.sum(right, dtype=jnp.float32), jnp.sum(counted, dtype=jnp.float32)


def _centre(array, size: tuple[int, int]):
    """The middle `size` of [B,H,W,...]."""
    top, left = (array.shape[1] - size[0]) // 2, (array.shape[2] - size[1]) // 2
    return array[:, top : top + size[0], left : left + size[1]]
