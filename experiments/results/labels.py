"""Predictions of a class for each pixel."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.metrics.base import Example, Metric, Prediction
from experiments.metrics.registry import make_label_metrics
from experiments.pictures.labels import compare_labels, draw_tiles, overlay
from experiments.pictures.legend import add_strip, list_label_classes
from experiments.pictures.palette import find_background
from experiments.pictures.png import write_mask, write_png
from experiments.pictures.sheet import Sheet
from experiments.results.base import Assembly, Results, Writer

ROWS = 64  # rows that are resampled at a time


class LabelResults(Results):
    """Scores the most probable classes with the metrics of config.eval.metrics, without the pixels labelled 255."""

    shown = ("label",)

    def __init__(self, evaluation: ConfigDict, class_names: tuple[str, ...]):
        self.evaluation, self.class_names = evaluation, class_names
        # Raises UserError for a metric that does not score these labels.
        self._keeps_probability = any("probability" in metric.reads for metric in self.metrics())

    def assembly(self, size: tuple[int, int], matrices: Sequence[np.ndarray] = ()) -> "ProbabilityAssembly":
        return ProbabilityAssembly(size, len(self.class_names), matrices, keep=self._keeps_probability)

    def metrics(self) -> list[Metric]:
        return make_label_metrics(self.evaluation.metrics, self.class_names)

    def picture(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> np.ndarray:
        images, labels = ([example[name] for example in examples] for name in ("image", "label"))
        return compare_labels(images, labels, [prediction["label"] for prediction in predictions], self.class_names)

    def tiles(self, example: Example, prediction: Prediction, longer: int) -> dict[str, np.ndarray]:
        labels = example["label"], prediction["label"]
        tiles = draw_tiles(example["image"], labels, self.class_names, longer)
        return dict(zip(("image", "truth", "prediction"), tiles, strict=True))

    def sheet(self, examples: Iterable[Example], captions: Sequence[str]) -> np.ndarray:
        sheet, classes = Sheet(captions, wide=True), np.zeros(256, bool)
        for example in examples:
            tiles = draw_tiles(example["image"], [example["label"]], self.class_names, sheet.longer)
            sheet.add(np.concatenate(tiles, 1))
            classes[example["label"]] = True
        return sheet.draw(list_label_classes([np.flatnonzero(classes)], self.class_names))

    def writer(
        self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int], image_ids: Sequence[int]
    ) -> "MaskWriter":
        return MaskWriter(folder, self.class_names)


class MaskWriter(Writer):
    """Writes NAME_mask.png (class indices) and NAME_overlay.png for each image.

    The overlay has the image's pixels at its top left, and the legend of the predicted classes below them.
    """

    def __init__(self, folder: Path, class_names: tuple[str, ...]):
        self.folder, self.class_names = folder, class_names

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Prediction) -> list[Path]:
        mask, drawn = self.folder / f"{name}_mask.png", self.folder / f"{name}_overlay.png"
        write_mask(mask, prediction["label"])
        entries = list_label_classes(prediction["label"], self.class_names)  # row by row
        coloured = overlay(image, prediction["label"], find_background(self.class_names))
        write_png(drawn, add_strip(coloured, entries))
        return [mask, drawn]

    def close(self) -> list[Path]:
        return []


class Seen(NamedTuple):
    """The pixels of an image that a view shows, and the places of their centres in the view's probabilities."""

    probability: np.ndarray  # [h,w,C]
    rows: range
    columns: slice
    row_places: np.ndarray  # [len(rows)], in pixels from the first one's centre
    column_places: np.ndarray


class ProbabilityAssembly(Assembly):
    """Averages the class probabilities of an image's views at each pixel, and takes the most probable class.

    Rows are finished after the last view that shows them: the probabilities of all pixels of a large image would be
    gigabytes. `matrices` are those of all views; without them, rows are finished at the end. `keep` keeps the
    probabilities.
    """

    def __init__(
        self, size: tuple[int, int], num_classes: int, matrices: Sequence[np.ndarray] = (), *, keep: bool = False
    ):
        self._size, self._num_classes = size, num_classes
        self._to_come = Counter(map(_find_first_row, matrices))  # views by the first row that they can show
        self._open: list[Seen] = []  # the views of rows that are not finished, in the order of their arrival
        self._done = 0  # rows
        self._label = np.zeros(size, np.uint8)
        self._kept = np.zeros((*size, num_classes), np.float32) if keep else None

    def add(self, prediction: Prediction, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """Sample `probability` [h,w,C], the centre of the canvas, linearly at the pixel centres of the image in it."""
        probability = prediction["probability"]
        spans, places = [], []
        for axis in (0, 1):  # rows, columns
            point = 1 - axis  # a point is (x, y)
            count = probability.shape[axis]
            scale, offset = matrix[point, point], matrix[point, 2] - (canvas[axis] - count) / 2
            place = scale * (np.arange(self._size[axis]) + 0.5) + offset
            inside = np.flatnonzero((place > -1e-6) & (place < count + 1e-6))
            spans.append(range(inside[0], inside[-1] + 1) if len(inside) else range(0))
            places.append(place[spans[-1].start : spans[-1].stop] - 0.5)
        if all(spans):
            self._open.append(Seen(probability, spans[0], slice(spans[1].start, spans[1].stop), *places))
        if self._to_come:
            self._to_come[_find_first_row(matrix)] -= 1
            self._finish(min((row for row, views in self._to_come.items() if views > 0), default=self._done))

    def _finish(self, end: int) -> None:
        """Finish the rows up to `end`."""
        end = min(end, self._size[0])
        for first in range(self._done, end, ROWS):
            self._finish_strip(range(first, min(first + ROWS, end)))
        self._done = max(self._done, end)
        self._open = [seen for seen in self._open if seen.rows.stop > self._done]

    def _finish_strip(self, strip: range) -> None:
        total = np.zeros((len(strip), self._size[1], self._num_classes), np.float32)
        views = np.zeros((len(strip), self._size[1]), np.float32)
        for seen in self._open:
            first, end = max(seen.rows.start, strip.start), min(seen.rows.stop, strip.stop)
            if first < end:
                places = seen.row_places[first - seen.rows.start : end - seen.rows.start]
                rows = _interpolate(seen.probability, places, axis=0)
                part = slice(first - strip.start, end - strip.start)
                total[part, seen.columns] += _interpolate(rows, seen.column_places, axis=1)
                views[part, seen.columns] += 1
        total /= views[..., None]
        self._label[strip.start : strip.stop] = total.argmax(-1)
        if self._kept is not None:
            self._kept[strip.start : strip.stop] = total

    def result(self) -> Prediction:
        """Return `label` [H,W] uint8, and `probability` [H,W,C] float32 if it is kept. Call this once."""
        self._finish(self._size[0])
        return {"label": self._label} | ({} if self._kept is None else {"probability": self._kept})


def _find_first_row(matrix: np.ndarray) -> int:
    """Return the first row of an image that a view can show, or one a little before it."""
    scale, offset = matrix[1, 1:]
    return max(0, math.floor(-offset / scale) - 1)


def _interpolate(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Sample `values` at `places` along an axis, in pixels from the first one's centre. They repeat beyond the ends."""
    places = np.clip(places, 0, values.shape[axis] - 1)
    low = np.floor(places).astype(int)
    part = (places - low).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1 - axis))
    if not part.any():
        return values.take(low, axis)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    return values.take(low, axis) * (1 - part) + values.take(high, axis) * part
