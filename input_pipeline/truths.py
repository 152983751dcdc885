"""Ground truth of one kind. It defines what a source must provide, and how an example becomes keys of a batch.

A kind of task names the contents of its batches (`needs`); `make_truth` returns the class that draws, views and pads them.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import objects
from input_pipeline.augment import geometry, mixtures, windows
from input_pipeline.augment.geometry import Window
from input_pipeline.augment.mixtures import DrawnExample
from input_pipeline.augment.weight_map import weight_map
from input_pipeline.batch import IGNORE, OBJECTS, PROPOSALS, Batch, Example, Size, row
from input_pipeline.objects import Objects
from input_pipeline.sources import Source

CENTRE = (0.25, 0.75)  # where a mosaic's centre lies, in shares of each side
MIXUP = (1.5, 1.5)  # of the beta distribution of a picture's share (Zhang et al. 2019, "Bag of Freebies")
PASTED = 0.5  # the probability that an object is pasted


class Truth(Protocol):
    """Made from config.data. Its constructor raises UserError for fields that do not fit this kind of ground truth."""

    keys: tuple[str, ...]  # of a training batch, in addition to those of every batch
    source_keys: tuple[str, ...]  # keys that training needs in a source's examples
    methods: tuple[str, ...]  # values of config.eval.method that its scores allow

    def draw(self, source: Source, index: int, rng: np.random.Generator) -> Batch:
        """Return example `index` as a row of a training batch, through a random map. Colours stay as they are."""
        ...

    def view(self, example: Example, matrix: np.ndarray, canvas: Size) -> Batch:
        """Return the ground truth of a view. `matrix` [3,3] maps the points of the stored image to those of `canvas`.

        An example without ground truth, which is only predicted, gets that of `blank`, in addition to its own proposals.
        """
        ...

    def blank(self, canvas: Size) -> Batch:
        """Return the ground truth of a view where nothing is known."""
        ...

    def resize(self, example: Example, matrix: np.ndarray, size: Size) -> Example:
        """Return the example at another size, to be scored there. Only where `methods` has "canvas"."""
        ...


class Labels(Truth):
    """A class for each pixel, `label`. Training also has `weight_map` where w0 of config.data.weight_map is above 0."""

    methods = ("whole", "window", "canvas")

    def __init__(self, data: ConfigDict):
        augment = data.augment
        asked = {field: augment[field] for field in ("iou_crop", "mosaic", "mixup", "copy_paste")}
        for field, strength in ({"zoom_out": augment.zoom_out[0]} | asked).items():
            if strength:
                raise _mismatch(
                    f"augment.{field}", augment[field], "labels", "it is for boxes; leave it at its default"
                )
        self.data = data
        self._w0, self._sigma = data.weight_map
        self.keys = ("label", "weight_map") if self._w0 else ("label",)
        self.source_keys = ("label", "instances") if self._w0 else ("label",)

    def draw(self, source: Source, index: int, rng: np.random.Generator) -> Batch:
        data, example = self.data, source[index]
        original, size = example["image"].shape[:2], tuple(data.image_size)
        matrix = geometry.draw_map(rng, original, size, data)
        displacement = geometry.draw_displacement(rng, size, data.augment)
        image = geometry.sample(example["image"], matrix, size, data, displacement)
        truth = {"label": geometry.warp_label(example["label"], matrix, size, displacement)}
        if self._w0:
            instances = geometry.warp_label(example["instances"], matrix, size, displacement, fill=0)
            truth["weight_map"] = weight_map(instances, self._w0, self._sigma)
        return row(image, truth, index, original, matrix)

    def view(self, example: Example, matrix: np.ndarray, canvas: Size) -> Batch:
        if "label" not in example:
            return self.blank(canvas)
        return {"label": geometry.warp_label(example["label"], matrix, canvas)}

    def blank(self, canvas: Size) -> Batch:
        return {"label": np.full(canvas, IGNORE, np.uint8)}

    def resize(self, example: Example, matrix: np.ndarray, size: Size) -> Example:
        image = geometry.sample(example["image"], matrix, size, self.data)
        return {"image": image} | self.view(example, matrix, size)


class Boxes(Truth):
    """Objects as boxes, config.data.max_boxes of them. copy_paste also requires masks from the source."""

    keys = OBJECTS
    methods = ("whole", "window")  # boxes are scored in the pixels of the stored image
    grid: Size | None = None  # of the masks in a batch

    def __init__(self, data: ConfigDict):
        for field, holds, why in (
            ("margin", data.margin == 0, "objects in the margin would be trained on; set 0"),
            ("border", data.border == "mean", "mirrored objects would have no boxes; choose mean"),
            ("weight_map", data.weight_map[0] == 0, "it weights a label's pixels; set '(0.0, 5.0)'"),
        ):
            if not holds:
                raise _mismatch(field, data[field], "boxes", why)
        if data.augment.elastic[0]:
            raise _mismatch(
                "augment.elastic", data.augment.elastic, "boxes", "it does not map corners; set '(0.0, 8.0)'"
            )
        self.data = data
        self._masks = self.grid is not None or data.augment.copy_paste > 0
        self.source_keys = ("boxes", "masks") if self._masks else ("boxes",)

    def draw(self, source: Source, index: int, rng: np.random.Generator) -> Batch:
        drawn = self._compose(source, index, rng)
        if rng.random() < self.data.augment.mixup:
            other = self._compose(source, _draw_partner(source, rng), rng)
            drawn = mixtures.mixup(drawn, other, rng.beta(*MIXUP))
        truth = objects.pad(drawn.objects, self.data.max_boxes, self.grid)
        return row(drawn.image, truth, index, drawn.original, drawn.matrix)

    def _compose(self, source: Source, index: int, rng: np.random.Generator) -> DrawnExample:
        """Return one example or a mosaic, with objects of another example pasted onto it."""
        augment, size = self.data.augment, tuple(self.data.image_size)
        if rng.random() < augment.mosaic:
            drawn = self._draw_mosaic(source, index, rng)
        else:
            drawn = self._draw_alone(source[index], size, rng)
        if rng.random() >= augment.copy_paste:
            return drawn
        donor = self._draw_alone(source[_draw_partner(source, rng)], size, rng)
        chosen = rng.random(len(donor.objects["boxes"])) < PASTED
        return mixtures.copy_paste(drawn, donor, chosen, augment.min_visible)

    def _draw_mosaic(self, source: Source, index: int, rng: np.random.Generator) -> DrawnExample:
        """Draw four examples, each at the size of its quadrant around a random centre, with `index` at the top left."""
        height, width = self.data.image_size
        top, left = (min(max(round(rng.uniform(*CENTRE) * side), 1), side - 1) for side in (height, width))
        quadrants = [(tall, wide) for tall in (top, height - top) for wide in (left, width - left)]
        indices = [index, *(_draw_partner(source, rng) for _ in quadrants[1:])]
        drawn = [self._draw_alone(source[i], size, rng) for i, size in zip(indices, quadrants, strict=True)]
        return mixtures.mosaic(drawn)

    def _draw_alone(self, example: Example, size: Size, rng: np.random.Generator) -> DrawnExample:
        """Return a window of an example as an image of `size`, sampled once through a random map."""
        annotated = objects.take(example, masks=self._masks)
        window, matrix = self._draw_map(example, annotated, size, rng)
        return self._show(example, annotated, window, matrix, size)

    def _draw_map(
        self, example: Example, annotated: Objects, size: Size, rng: np.random.Generator
    ) -> tuple[Window, np.ndarray]:
        """Draw a window of an example, and a map [3,3] from the stored image's points to an image of `size`."""
        window = windows.draw_window(rng, example["image"].shape[:2], annotated, self.data.augment)
        top, left, bottom, right = window
        matrix = geometry.draw_map(rng, (bottom - top, right - left), size, self.data)
        return window, matrix @ geometry.translation(-left, -top)

    def _show(
        self, example: Example, annotated: Objects, window: Window, matrix: np.ndarray, size: Size
    ) -> DrawnExample:
        """Return the window as an image of `size`, with the visible part of the objects."""
        data, original = self.data, example["image"].shape[:2]
        part, from_part = geometry.cut(window, original, matrix)
        image = geometry.sample(example["image"][part], from_part, size, data)
        if data.augment.iou_crop:
            centred = windows.have_centre(annotated["boxes"], window)
            annotated = objects.pick(annotated, annotated["crowd"] | centred)
        seen = objects.follow(annotated, matrix, window, size, data.augment.min_visible)
        return DrawnExample(image, seen, original, matrix)

    def view(self, example: Example, matrix: np.ndarray, canvas: Size) -> Batch:
        if "boxes" not in example:
            return self.blank(canvas)
        whole = (0, 0, *example["image"].shape[:2])
        annotated = objects.take(example, masks=self.grid is not None)
        return objects.pad(objects.follow(annotated, matrix, whole, canvas), self.data.max_boxes, self.grid)

    def blank(self, canvas: Size) -> Batch:
        return objects.pad(objects.none(), self.data.max_boxes, self.grid)


class Masks(Boxes):
    """Boxes of objects, and their masks. Each mask is sampled on a grid of config.data.mask_size over its box."""

    keys = (*OBJECTS, "masks")

    def __init__(self, data: ConfigDict):
        self.grid = tuple(data.mask_size)
        super().__init__(data)


class Proposals(Boxes):
    """Boxes of objects, and the best config.data.max_proposals proposals that a picture shows.

    Proposals are not ground truth: the network reads them, and every view of an image has them. They follow the image's
    points as boxes do, and are clipped to the visible part. Proposals without area there make room for the next.
    """

    keys = (*OBJECTS, *PROPOSALS)

    def __init__(self, data: ConfigDict):
        super().__init__(data)
        for field in ("mosaic", "mixup", "copy_paste"):
            if data.augment[field]:
                why = "proposals belong to one image; set 0.0"
                raise _mismatch(f"augment.{field}", data.augment[field], "proposals", why)
        self.source_keys = (*self.source_keys, "proposals")

    def draw(self, source: Source, index: int, rng: np.random.Generator) -> Batch:
        example, size = source[index], tuple(self.data.image_size)
        annotated = objects.take(example)
        window, matrix = self._draw_map(example, annotated, size, rng)
        drawn = self._show(example, annotated, window, matrix, size)
        truth = objects.pad(drawn.objects, self.data.max_boxes) | self._follow(example, matrix, window, size)
        return row(drawn.image, truth, index, drawn.original, matrix)

    def view(self, example: Example, matrix: np.ndarray, canvas: Size) -> Batch:
        whole = (0, 0, *example["image"].shape[:2])
        return super().view(example, matrix, canvas) | self._follow(example, matrix, whole, canvas)

    def blank(self, canvas: Size) -> Batch:
        return super().blank(canvas) | objects.pad_proposals(np.zeros((0, 4)), self.data.max_proposals)

    def _follow(self, example: Example, matrix: np.ndarray, window: Window, size: Size) -> Batch:
        boxes, seen = objects.follow_boxes(example["proposals"].astype(np.float64), matrix, window, size)
        return objects.pad_proposals(boxes[seen], self.data.max_proposals)


TRUTHS: dict[tuple[str, ...], Callable[[ConfigDict], Truth]] = {
    ("label",): Labels,
    ("boxes",): Boxes,
    ("boxes", "masks"): Masks,
    ("boxes", "proposals"): Proposals,
}


def make_truth(needs: tuple[str, ...], data: ConfigDict) -> Truth:
    """Return the ground truth for a task with these `needs`. Raise UserError for fields of config.data that do not fit."""
    geometry.check_canvas("image_size", tuple(data.image_size), data)
    low, high = data.augment.scale
    if low > high:
        raise UserError(f"config.data.augment.scale={(low, high)} is not in order; put the smaller factor first")
    if data.shortest[0] > data.shortest[1]:
        raise UserError(f"config.data.shortest={tuple(data.shortest)} is not in order; put the shorter side first")
    return TRUTHS[needs](data)


def _mismatch(field: str, value: object, kind: str, why: str) -> UserError:
    return UserError(f"config.data.{field}={value} does not work with {kind}: {why}")


def _draw_partner(source: Source, rng: np.random.Generator) -> int:
    return int(rng.integers(len(source)))
