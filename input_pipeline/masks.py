"""Masks of objects, stored as the pixels around each object. Memory grows with the objects, not with the image.

A geometric map changes a mask's matrix, not its pixels. The stored pixels are sampled once (nearest), at a picture's pixels
(`paint`) or on a grid over the object's box (`frame`). Pixels outside the box are never sampled.

The masks of several objects are an array [N] of `Mask`, picked and joined like the other fields of objects.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from input_pipeline.augment import geometry
from input_pipeline.augment.geometry import Window
from input_pipeline.batch import Size

STRIP = 256  # rows that are painted at a time

Part = tuple[slice, slice]  # rows and columns of a picture


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """The pixels of one object. It has none beyond `pixels`."""

    pixels: np.ndarray  # [h,w] bool, of the stored image
    corner: tuple[int, int] = (0, 0)  # row and column of the first pixel in the stored image
    # [3,3] maps the points of the stored image to those of the picture
    matrix: np.ndarray = dataclasses.field(default_factory=lambda: geometry.IDENTITY)
    covers: tuple["Mask", ...] = ()  # masks that hide parts of this one in the picture


def collect(masks: Iterable[Mask]) -> np.ndarray:
    """Put masks into an array [N] of objects."""
    return np.fromiter(masks, object)


def bound(mask: np.ndarray) -> Window:
    """Find the box (top, left, bottom, right) around the pixels of a mask [H,W] bool, which must not be empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def find_regions(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the objects of an id map [H,W] of integers, where 0 means no object.

    Return (ids [N] rising, boxes [N,4] int64, counts [N] int64). Boxes are (top, left, bottom, right) in pixels, and counts
    are numbers of pixels.
    """
    rows, columns = np.nonzero(ids)
    order = np.argsort(ids[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    numbers, starts, counts = np.unique(ids[rows, columns], return_index=True, return_counts=True)
    if not len(numbers):
        return numbers, np.zeros((0, 4), np.int64), counts
    low = [np.minimum.reduceat(places, starts) for places in (rows, columns)]
    high = [np.maximum.reduceat(places, starts) + 1 for places in (rows, columns)]
    return numbers, np.stack([*low, *high], -1), counts


def cut_out(ids: np.ndarray, numbers: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Cut the masks [N] of the ids `numbers` [N] out of an id map [H,W]. `boxes` [N,4] come from `find_regions`."""
    return collect(
        Mask(ids[top:bottom, left:right] == number, (top, left))
        for number, (top, left, bottom, right) in zip(numbers, boxes.tolist(), strict=True)
    )


def move(masks: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Move the masks [N] to another picture. `matrix` [3,3] maps the points of their picture to its points."""
    return collect(_moved(mask, matrix) for mask in masks)


def cut(masks: np.ndarray, window: Window) -> np.ndarray:
    """Cut the masks [N] to a window of the stored image."""
    return collect(_cut(mask, window) for mask in masks)


def touch(box: np.ndarray, size: Size) -> Part:
    """Return the rows and columns of a picture of `size` that `box` (top, left, bottom, right), in pixels, touches."""
    top, left, bottom, right = np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])
    return slice(max(int(top), 0), min(int(bottom), size[0])), slice(max(int(left), 0), min(int(right), size[1]))


def paint(mask: Mask, part: Part) -> np.ndarray:
    """Sample the mask at the pixels of a part of the picture, as [h,w] bool."""
    rows, columns = part
    height, width = max(rows.stop - rows.start, 0), max(columns.stop - columns.start, 0)
    painted = np.empty((height, width), bool)
    for first in range(0, height, STRIP):  # the coordinates of all pixels of a large mask would take gigabytes
        size = min(STRIP, height - first), width
        painted[first : first + STRIP] = _sample(mask, geometry.translation(-columns.start, -rows.start - first), size)
    return painted


def frame(mask: Mask, box: np.ndarray, size: Size) -> np.ndarray:
    """Sample the mask on a grid of `size` over `box` (top, left, bottom, right), in pixels, as [*size] bool.

    The box must have an area.
    """
    top, left, bottom, right = box
    to_grid = geometry.scaling(size[1] / (right - left), size[0] / (bottom - top)) @ geometry.translation(-left, -top)
    return _sample(mask, to_grid, size)


def _sample(mask: Mask, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Sample the mask, as [*size] bool. `matrix` maps the picture's points to those of the output."""
    row, column = mask.corner
    from_pixels = matrix @ mask.matrix @ geometry.translation(column, row)
    seen = geometry.warp_label(mask.pixels, from_pixels, size, fill=0)
    for cover in mask.covers:
        seen &= ~_sample(cover, matrix, size)
    return seen


def _moved(mask: Mask, matrix: np.ndarray) -> Mask:
    covers = tuple(_moved(cover, matrix) for cover in mask.covers)
    return Mask(mask.pixels, mask.corner, matrix @ mask.matrix, covers)


def _cut(mask: Mask, window: Window) -> Mask:
    (top, left), (height, width) = mask.corner, mask.pixels.shape
    if window[0] <= top and window[1] <= left and top + height <= window[2] and left + width <= window[3]:
        return mask
    first, start = min(max(window[0] - top, 0), height), min(max(window[1] - left, 0), width)
    pixels = mask.pixels[first : max(window[2] - top, first), start : max(window[3] - left, start)]
    if not pixels.size:
        pixels = np.zeros((1, 1), bool)
    return dataclasses.replace(mask, pixels=pixels, corner=(top + first, left + start))
