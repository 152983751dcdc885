"""Masks as text: polygons and run lengths as COCO writes them, and its compressed run lengths.

An image's masks are decoded to the pixels around each, and encoded from them: all of an image's pixels for each object
would be gigabytes.

COCO's own tools read past the end of a text that is cut short, and may wait forever for the end of a mask that is: only
runs that make up the image are handed to them.
"""

from typing import Any

import numpy as np
from faster_coco_eval.core import mask as run_lengths

from errors import UserError
from files import LIMITS
from input_pipeline.annotations.numbers import is_finite
from input_pipeline.batch import Size
from input_pipeline.masks import Mask, bound, collect

FARTHEST = 1_000_000  # pixels: a coordinate of a polygon beyond it is a mistake that would take gigabytes to draw
BORDER = 5_000_000  # pixels around all polygons of an object: drawing takes 80 bytes for each
LEAST = 6  # numbers of a polygon that holds something: three points


def is_polygon(values: Any) -> bool:
    """Whether these are the x, y, x, y, ... of a polygon that can be drawn; with less than LEAST it holds nothing."""
    paired = isinstance(values, list) and len(values) % 2 == 0
    return paired and all(is_finite(value) and abs(value) <= FARTHEST for value in values)


def encode_mask(segmentation: Any, size: Size) -> bytes:
    """A mask of an image of `size`, in any of COCO's three forms, as compressed run lengths; b"" where there is none.

    The forms are polygons [[x, y, x, y, ...], ...] in pixels, {"size": [h, w], "counts": [...]}, and the same with text for
    counts. Raises UserError where it is none of them or of another size.
    """
    if isinstance(segmentation, dict):
        return encode_runs(_read_counts(segmentation, size), size)
    if not isinstance(segmentation, list | tuple) or not all(map(is_polygon, segmentation)):
        raise UserError("its mask is neither polygons [[x, y, x, y, ...]] nor run lengths")
    # Four numbers would be taken for a box.
    polygons = [polygon for polygon in segmentation if len(polygon) >= LEAST]
    border = sum(map(_measure_border, polygons))
    if border > BORDER:
        raise UserError(f"its polygons have a border of {border:,.0f} pixels, and {BORDER:,} are the most ({LIMITS})")
    return run_lengths.merge(run_lengths.frPyObjects(polygons, *size))["counts"] if polygons else b""


def _measure_border(polygon: list[float]) -> float:
    points = np.reshape(np.array(polygon, np.float64), (-1, 2))
    return float(np.abs(points - np.roll(points, -1, 0)).max(1).sum())


def encode_runs(runs: list[int], size: Size) -> bytes:
    """Lengths of 0 and 1 in turn, down the columns of an image of `size`, which they must make up."""
    return run_lengths.frPyObjects({"size": list(size), "counts": runs}, *size)["counts"]


def encode_pixels(mask: Mask, size: Size) -> bytes:
    """The pixels of a mask, where they lie in its stored image of `size`, as compressed run lengths.

    They are all in the image. Only the columns that the mask has are made.
    """
    (top, left), (height, width), (image_height, image_width) = mask.corner, mask.pixels.shape, size
    columns = np.zeros((width, image_height), bool)
    columns[:, top : top + height] = mask.pixels.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + left * image_height
    whole = image_height * image_width
    changes = changes[changes < whole]  # a mask that holds the last pixel has no run of 0 after it
    return encode_runs(np.diff(changes, prepend=0, append=whole).tolist(), size)


def decode_masks(texts: list[bytes], size: Size) -> np.ndarray:
    """The masks [N] of `Mask` of `encode_mask`'s texts, for an image of `size`."""
    return collect(_decode(text, size) for text in texts)


def _decode(text: bytes, size: Size) -> Mask:
    """COCO's own decoder makes all of the image's pixels for each mask: this one only the columns that the mask has."""
    height, _ = size
    ends = np.cumsum(_read_text(text.decode()))  # of the runs of 0 and 1 in turn
    if len(ends) < 2 or ends[0] == ends[-1]:
        return Mask(np.zeros((1, 1), bool))
    last = len(ends) // 2 * 2 - 1  # the last run of 1
    left, right = int(ends[0]) // height, -(-int(ends[last]) // height)
    edges = np.concatenate(([left * height], ends[: last + 1], [right * height]))
    columns = np.repeat(np.arange(last + 2) % 2 == 1, edges[1:] - edges[:-1]).reshape(right - left, height)
    top, first, bottom, end = bound(columns.T)
    return Mask(np.ascontiguousarray(columns[first:end, top:bottom].T), (top, left + first))


def measure_area(runs: dict) -> int:
    """The pixels of a mask {"size": [h, w], "counts": compressed run lengths}."""
    return int(run_lengths.area(runs))


def _read_counts(segmentation: dict, size: Size) -> list[int]:
    """The runs of {"size": [h, w], "counts": [...] or text}. Raises UserError unless they make up an image of `size`."""
    height, width = size
    if segmentation.get("size") != [height, width]:
        raise UserError(f"its mask is of {segmentation.get('size')} (height, width), the image of {[height, width]}")
    counts = segmentation.get("counts")
    runs = _read_text(counts) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
    if not whole or sum(runs) != height * width:
        raise UserError(f"its mask cannot be decoded (its runs are not those of {height}x{width} pixels)")
    return runs


def _read_text(text: str) -> list[int] | None:
    """The runs in COCO's text of a mask, or None if it is not valid.

    A character is 48 and 5 bits of a number, the lowest first, and 32 where more of it follow; the fifth bit of its last
    one is the sign. From the fourth number on they are differences to the run two before.
    """
    codes = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] > 31:
        return None
    ends = np.flatnonzero(codes < 32)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > 7:  # more than 35 bits
        return None
    starts = ends + 1 - lengths
    numbers = np.add.reduceat((codes & 31) << 5 * (np.arange(codes.size) - starts.repeat(lengths)), starts)
    numbers -= (codes[ends] >> 4) << 5 * lengths
    for first in (1, 2):
        numbers[first::2] = numbers[first::2].cumsum()
    return numbers.tolist()
