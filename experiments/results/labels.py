"""Predictions of a class for every pixel."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from ml_collections import ConfigDict

from experiments.metrics.base import Example, Metric, Prediction
from experiments.metrics.registry import make_label_metrics
from experiments.pictures.labels import compare_labels, draw_label, overlay
from experiments.pictures.legend import add_strip, list_classes
from experiments.pictures.png import write_mask, write_png
from experiments.pictures.sheet import Sheet
from experiments.results.base import Assembly, Results, Writer

TILE = 512  # pixels of an example's longer side in a picture
ROWS = 64  # rows that are resampled at a time


class LabelResults(Results):
    """Scores the most probable classes, as config.eval.metrics says; pixels labelled 255 count nowhere."""

    shown = ("label",)

    def __init__(self, evaluation: ConfigDict, class_names: tuple[str, ...]):
        self.evaluation, self.class_names = evaluation, class_names
        self.metrics()  # refuses a metric that does not score these labels

    def assembly(self, size: tuple[int, int]) -> "ProbabilityAssembly":
        return ProbabilityAssembly(size, len(self.class_names))

    def metrics(self) -> list[Metric]:
        return make_label_metrics(self.evaluation.metrics, self.class_names)

    def picture(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> np.ndarray:
        """Draw all in the first one's shape, no larger than TILE pixels."""
        shrink = min(1.0, TILE / max(examples[0]["label"].shape))
        size = tuple(max(1, round(shrink * side)) for side in examples[0]["label"].shape)

        def stacked(rows: Sequence[Example | Prediction], name: str, how: int) -> np.ndarray:
            return np.stack([cv2.resize(row[name], size[::-1], interpolation=how) for row in rows])

        images = stacked(examples, "image", cv2.INTER_AREA)
        labels = (stacked(rows, "label", cv2.INTER_NEAREST) for rows in (examples, predictions))
        return compare_labels(images, *labels, self.class_names)

    def tiles(self, example: Example, prediction: Prediction, longer: int) -> dict[str, np.ndarray]:
        shape = example["label"].shape
        factor = longer / max(shape)
        size = tuple(max(1, round(factor * side)) for side in shape[::-1])
        image = cv2.resize(example["image"], size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        labels = {"truth": example["label"], "prediction": prediction["label"]}
        resized = {name: cv2.resize(own, size, interpolation=cv2.INTER_NEAREST) for name, own in labels.items()}
        return {"image": image} | {name: overlay(image, label) for name, label in resized.items()}

    def sheet(self, examples: Iterable[Example], captions: Sequence[str]) -> np.ndarray:
        sheet, classes = Sheet(captions, wide=True), np.zeros(256, bool)
        for example in examples:
            sheet.add(draw_label(example["image"], example["label"], sheet.longer))
            classes[example["label"]] = True
        return sheet.draw(list_classes([np.flatnonzero(classes)], self.class_names))

    def writer(
        self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int], image_ids: Sequence[int]
    ) -> "MaskWriter":
        return MaskWriter(folder, self.class_names)


class MaskWriter(Writer):
    """Writes NAME_mask.png (class indices) and NAME_overlay.png for each image.

    The overlay has the image's pixels at its top left, and the legend of the classes that were found below them.
    """

    def __init__(self, folder: Path, class_names: tuple[str, ...]):
        self.folder, self.class_names = folder, class_names

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Prediction) -> list[Path]:
        mask, drawn = self.folder / f"{name}_mask.png", self.folder / f"{name}_overlay.png"
        write_mask(mask, prediction["label"])
        entries = list_classes([prediction["label"]], self.class_names)
        write_png(drawn, add_strip(overlay(image, prediction["label"]), entries))
        return [mask, drawn]

    def close(self) -> list[Path]:
        return []


class ProbabilityAssembly(Assembly):
    """Averages the class probabilities that an image's views give each of its pixels."""

    def __init__(self, size: tuple[int, int], num_classes: int):
        self._sum = np.zeros((*size, num_classes), np.float32)
        self._views = np.zeros(size, np.float32)

    def add(self, prediction: Prediction, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """Sample `probability` [h,w,C], the centre of the canvas, linearly at the pixel centres of the image in it."""
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

    def result(self) -> Prediction:
        """Return `probability` [H,W,C] float32 and `label` [H,W] uint8. Call it once."""
        self._sum /= self._views[..., None]
        label = np.empty(self._views.shape, np.uint8)
        for first in range(0, len(label), ROWS):  # argmax makes 8 bytes of each pixel
            label[first : first + ROWS] = self._sum[first : first + ROWS].argmax(-1)
        return {"probability": self._sum, "label": label}


def _interpolate(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Sample `values` at `places` along an axis, in pixels from the first one's centre; beyond the ends they repeat."""
    places = np.clip(places, 0, values.shape[axis] - 1)
    low = np.floor(places).astype(int)
    part = (places - low).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1 - axis))
    if not part.any():
        return values.take(low, axis)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    return values.take(low, axis) * (1 - part) + values.take(high, axis) * part
