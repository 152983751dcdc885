"""Masks as text, in COCO's forms of polygons, run lengths and compressed run lengths.

Masks are decoded to the pixels around each object, and encoded from them. All of an image's pixels for each object would take
gigabytes.

COCO's own tools read past the end of a truncated text, and may wait forever for the end of a truncated mask. So they only get
runs that fill the image.
"""

from typing import Any

import numpy as np
from faster_coco_eval.core import mask as run_lengths

from errors import UserError
from files import LIMITS
from input_pipeline.annotations.numbers import is_finite
from input_pipeline.batch import Size
from input_pipeline.masks import Mask, bound, collect

FARTHEST = 1_000_000  # pixels: a larger coordinate of a polygon is a mistake that would take gigabytes to draw
BORDER = 5_000_000  # pixels around all polygons of an object: drawing takes 80 bytes for each
LEAST = 6  # numbers of the smallest polygon with an area: three points


def is_polygon(values: Any) -> bool:
    """Return whether the values are the x, y, x, y, ... of a polygon that can be drawn. Below LEAST numbers it is empty."""
    paired = isinstance(values, list) and len(values) % 2 == 0
    return paired and all(is_finite(value) and abs(value) <= FARTHEST for value in values)


def encode_mask(segmentation: Any, size: Size) -> bytes:
    """Return a mask in any of COCO's three forms as compressed run lengths, b"" for an empty one.

    The forms are polygons [[x, y, x, y, ...], ...] in pixels, {"size": [h, w], "counts": [...]}, and the same with text as
    counts. Raise UserError for another form, and for another size than the image's `size`.
    """
    if isinstance(segmentation, dict):
        return encode_runs(_read_counts(segmentation, size), size)
    if not isinstance(segmentation, list | tuple) or not all(map(is_polygon, segmentation)):
        raise UserError("its mask is neither polygons [[x, y, x, y, ...]] nor run lengths")
    # COCO's tools would take four numbers for a box.
    polygons = [polygon for polygon in segmentation if len(polygon) >= LEAST]
    border = sum(map(_measure_border, polygons))
    if border > BORDER:
        raise UserError(
            f"its polygons have a border of {border:,.0f} pixels, more than the limit of {BORDER:,} ({LIMITS}); simplify them"
        )
    if not polygons:
        return b""
    drawn = run_lengths.frPyObjects(polygons, *size)
    return run_lengths.merge(drawn)["counts"]  # pyright: ignore[reportArgumentType]: a list gives a list


def _measure_border(polygon: list[float]) -> float:
    points = np.reshape(np.array(polygon, np.float64), (-1, 2))
    return float(np.abs(points - np.roll(points, -1, 0)).max(1).sum())


def encode_runs(runs: list[int], size: Size) -> bytes:
    """Encode lengths of 0 and 1 in turn, down the columns of an image of `size`, which they must fill."""
    encoded = run_lengths.frPyObjects({"size": list(size), "counts": runs}, *size)
    return encoded["counts"]  # pyright: ignore[reportCallIssue, reportArgumentType]: a dictionary gives a dictionary


def encode_pixels(mask: Mask, size: Size) -> bytes:
    """Return the pixels of a mask, at their place in its stored image of `size`, as compressed run lengths.

    All pixels must be in the image. Only the columns of the mask are made.
    """
    (top, left), (height, width), (image_height, image_width) = mask.corner, mask.pixels.shape, size
    columns = np.zeros((width, image_height), bool)
    columns[:, top : top + height] = mask.pixels.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + left * image_height
    whole = image_height * image_width
    changes = changes[changes < whole]  # a mask that holds the last pixel has no run of 0 after it
    return encode_runs(np.diff(changes, prepend=0, append=whole).tolist(), size)


def decode_masks(texts: list[bytes], size: Size) -> np.ndarray:
    """Return masks [N] of `Mask` from `encode_mask`'s texts, for an image of `size`."""
    return collect(_decode(text, size) for text in texts)


def _decode(text: bytes, size: Size) -> Mask:
    """Decode only the columns of the mask. COCO's own decoder makes all of the image's pixels for each mask."""
    height, _ = size
    runs = _read_text(text.decode())
    if runs is None:
        raise UserError("a stored mask cannot be decoded")
    ends = np.cumsum(runs)  # of the runs of 0 and 1 in turn
    if len(ends) < 2 or ends[0] == ends[-1]:
        return Mask(np.zeros((1, 1), bool))
    last = len(ends) // 2 * 2 - 1  # the last run of 1
    left, right = int(ends[0]) // height, -(-int(ends[last]) // height)
    edges = np.concatenate(([left * height], ends[: last + 1], [right * height]))
    columns = np.repeat(np.arange(last + 2) % 2 == 1, edges[1:] - edges[:-1]).reshape(right - left, height)
    top, first, bottom, end = bound(columns.T)
    return Mask(np.ascontiguousarray(columns[first:end, top:bottom].T), (top, left + first))


def measure_area(runs: dict) -> int:
    """Return the number of pixels of a mask in compressed run lengths, `{"size": [h, w], "counts": text}`."""
    return int(run_lengths.area(runs))


def _read_counts(segmentation: dict, size: Size) -> list[int]:
    """Return the runs of `{"size": [h, w], "counts": [...] or text}`. Raise UserError unless they fill an image of `size`."""
    height, width = size
    if segmentation.get("size") != [height, width]:
        raise UserError(
            f"its mask has the size {segmentation.get('size')} (height, width), but the image has {[height, width]}"
        )
    counts = segmentation.get("counts")
    runs = _read_text(counts) if isinstance(counts, str) else counts
    whole = height * width
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != whole:
        raise UserError(f"its mask cannot be decoded (the runs do not fill {height}x{width} pixels)")
    return runs


def _read_text(text: str) -> list[int] | None:
    """Return the runs in COCO's text of a mask, or None if it is not valid.

    A character's code is 48 plus 5 bits of a number, the lowest bits first, plus 32 if more characters follow. The fifth bit of
    the last character is the sign. From the fourth number on, numbers are differences to the run two before.
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
