"""Predictions of boxes with a class, a score and a mask."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.metrics.base import Prediction
from experiments.metrics.registry import make_mask_metrics
from experiments.pictures.instances import (
    FRAMED_INSTANCES,
    INSTANCES,
    compare_instances,
    draw_colours,
    draw_instances,
)
from experiments.pictures.legend import Entry, count_classes
from experiments.results.boxes import BoxAssembly, BoxResults, DetectionWriter
from input_pipeline.annotations.masks import encode_pixels
from input_pipeline.masks import Mask, bound, collect, touch

STRIP = 256  # rows
PROBABLE = 0.5  # a pixel of a higher probability belongs to the object


class MaskResults(BoxResults):
    """Scores masks and their boxes in the images' own pixels, with the metrics of config.eval.metrics."""

    shown = (*BoxResults.shown, "masks")
    make_metrics = staticmethod(make_mask_metrics)
    compare = staticmethod(compare_instances)
    style = INSTANCES
    truth_style = FRAMED_INSTANCES  # with the boxes as annotated, which need not fit the masks

    def assembly(self, size: tuple[int, int], matrices: Sequence[np.ndarray] = ()) -> "MaskAssembly":
        return MaskAssembly(size, self.evaluation.merge_iou, self.evaluation.max_detections)

    def writer(
        self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int], image_ids: Sequence[int]
    ) -> "InstanceWriter":
        return InstanceWriter(folder, paths, self.class_names, category_ids, image_ids, self.evaluation.picture_score)


class MaskAssembly(BoxAssembly):
    """Collects boxes as `BoxAssembly` does, and their masks.

    A view's `masks` [D,h,w] float32 are probabilities at the centres of a grid over each box of the view. Clipping a box to
    the image does not move its mask.
    """

    fields = (*BoxAssembly.fields, "masks")

    def _place(self, found: Prediction, boxes: np.ndarray, matrix: np.ndarray) -> Prediction:
        mirrored = (slice(None, None, -1 if matrix[axis, axis] < 0 else 1) for axis in (1, 0))  # rows, columns
        placed = super()._place(found, boxes, matrix)
        return placed | {"masks": found["masks"][:, *mirrored], "frames": boxes}

    def result(self) -> Prediction:
        """Return what `BoxAssembly` does, and `masks` [D] of `Mask` in the image's own pixels."""
        result = super().result()
        frames = result.pop("frames")
        pasted = (paste(mask, box, self.size) for mask, box in zip(result["masks"], frames, strict=True))
        return result | {"masks": collect(pasted)}


def paste(probability: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> Mask:
    """Find the pixels of an image of `size` that belong to an object, with a probability above 0.5.

    `probability` [h,w] is known at the centres of a grid over `box` (top, left, bottom, right), in pixels, and linear
    between them. It is 0 one cell beyond the last centres, so that no pixel outside the box belongs to the object. He et
    al. 2017, section 3.1, with the border of torchvision's and Detectron2's pasting. Only the box's pixels are computed.
    """
    part = touch(box, size)
    low, high = np.split(np.asarray(box, np.float64), 2)
    rows, columns = (
        _weigh_cells(np.arange(pixels.start, pixels.stop) + 0.5, start, end, count)
        for pixels, start, end, count in zip(part, low, high, probability.shape, strict=True)
    )
    # In strips: the probabilities of all pixels of a large box would be gigabytes.
    pixels = np.empty((len(rows), len(columns)), bool)
    for first in range(0, len(rows), STRIP):
        pixels[first : first + STRIP] = rows[first : first + STRIP] @ probability @ columns.T > PROBABLE
    if not pixels.any():
        return Mask(np.zeros((1, 1), bool))
    top, left, bottom, right = bound(pixels)
    return Mask(pixels[top:bottom, left:right].copy(), (part[0].start + top, part[1].start + left))


def _weigh_cells(places: np.ndarray, start: float, end: float, count: int) -> np.ndarray:
    """Return the weights [P,count] of `count` cells from `start` to `end` in linear sampling at P `places`."""
    cells = (places - start) * count / (end - start) - 0.5  # from the first one's centre
    return np.maximum(1 - np.abs(cells[:, None] - np.arange(count)), 0)


class InstanceWriter(DetectionWriter):
    """Writes NAME_instances.png for each image, and detections.json with COCO's `segmentation` in each entry.

    A segmentation is {"size": [height, width], "counts": the mask's run lengths as a text}.
    """

    kind = "instances"

    def _list_regions(self, prediction: Prediction, size: tuple[int, int]) -> list[dict]:
        texts = (encode_pixels(mask, size).decode() for mask in prediction["masks"])
        return [{"segmentation": {"size": list(size), "counts": text}} for text in texts]

    def _draw(self, image: np.ndarray, shown: Prediction) -> np.ndarray:
        return draw_instances(image, shown, self.class_names)

    def _list_entries(self, shown: Prediction) -> list[Entry]:
        """List the legend's entry of the detections `shown`, whose colours do not mean classes."""
        counted = ", ".join(text for _, text in count_classes(shown["classes"], self.class_names))
        return [(draw_colours, f"a colour is one object; {counted}")] if counted else []
