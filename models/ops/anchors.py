"""Anchors, default boxes and cells, to which a detector's outputs belong. They are numpy constants of a program.

All are (top, left, bottom, right) in pixels, float32, ordered by level, row, column and shape, and not clipped to the
image. A ratio is width / height.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Num

Size = Sequence[int]  # (height, width)
Placement = Literal["centres", "corners"]  # the point of its cell that an anchor of a pyramid is centred on


def _lay(centres: Sequence[Num[np.ndarray, " _n"]], shapes: Float[np.ndarray, "k 2"]) -> Float32[np.ndarray, "_n 4"]:
    """Return boxes of k shapes (height, width) around each of the `centres` of (rows, columns)."""
    middle = np.stack(np.meshgrid(*centres, indexing="ij"), -1).reshape(-1, 1, 2)
    half = shapes / 2
    return np.concatenate([middle - half, middle + half], -1).reshape(-1, 4).astype(np.float32)


def default_boxes(
    image_size: Size,
    grids: Sequence[Size],
    sizes: Sequence[float],
    ratios: Sequence[Sequence[float]],
    *,
    steps: Sequence[float] = (),
    within: bool = False,
) -> Float32[np.ndarray, "a 4"]:
    """Return SSD's default boxes (Liu et al. 2016, section 2.2).

    `grids` are the (rows, columns) of the levels. `sizes` are the levels' scales as fractions of the image's sides, and one
    more for the last level's extra box. `ratios` are the ratios over 1 of each level. A level's shapes are a square of its
    scale s_k, the extra square of sqrt(s_k s_k+1), then each ratio and its inverse. SSD300 has (4, 6, 6, 6, 4, 4) shapes,
    which give 8,732 boxes.

    `steps` are the pixels between the centres of each level, whose first centre is at half a step; by default a step is
    side / count of the grid. `within` cuts a shape to the image's sides around its centre, which stays.
    """
    levels = []
    units = steps or [None] * len(grids)
    for grid, scale, following, wide, step in zip(grids, sizes[:-1], sizes[1:], ratios, units, strict=True):
        extra = math.sqrt(scale * following)
        pairs = [(scale, scale), (extra, extra)]
        for root in map(math.sqrt, wide):
            pairs += [(scale / root, scale * root), (scale * root, scale / root)]
        shapes = np.minimum(pairs, 1.0) if within else np.asarray(pairs)
        centres = [
            (np.arange(count) + 0.5) * (step or side / count) for count, side in zip(grid, image_size, strict=True)
        ]
        levels.append(_lay(centres, shapes * image_size))
    return np.concatenate(levels)


def cells(image_size: Size, grid: Size) -> Float32[np.ndarray, "{grid[0]} {grid[1]} 4"]:
    """Return the cells of a `grid` (rows, columns) over the image, as YOLO has them (Redmon et al. 2016, section 2)."""
    top, left = (np.arange(count) * (side / count) for count, side in zip(grid, image_size, strict=True))
    bottom, right = (np.arange(1, count + 1) * (side / count) for count, side in zip(grid, image_size, strict=True))
    top, left = np.meshgrid(top, left, indexing="ij")
    bottom, right = np.meshgrid(bottom, right, indexing="ij")
    return np.stack([top, left, bottom, right], -1).astype(np.float32)


def pyramid(
    image_size: Size,
    strides: Sequence[int],
    scale: float,
    octaves: int,
    ratios: Sequence[float],
    placement: Placement = "centres",
    span: float = 1.0,
) -> tuple[Float32[np.ndarray, "_h _w k 4"], ...]:
    """Return the anchors of each level of a pyramid (Lin et al. 2017, Focal Loss, section 4).

    A level has h = ceil(side / stride) rows, w columns likewise, and k = octaves * ratios shapes. Their areas are (scale *
    stride * 2^(span * o / octaves))^2 for each o below `octaves`, each with every ratio. RetinaNet's scale is 4. A scale of
    1 with one octave and the ratio 1 gives FCOS's locations: the centres of boxes with sides of a stride. A scale of 8 with
    three octaves that span 3 gives Faster R-CNN's anchors of 128, 256 and 512 pixels on one level of stride 16.

    The `placement` "corners" gives the anchors that torchvision's detectors were trained with. Sides are cut to whole
    pixels, then halved and rounded, half to even, so that an anchor reaches whole pixels to each side of its centre. The
    centres are the cells' top left corners. These are side // rows and side // columns apart, which is less than the stride
    where the stride does not divide the image. A cell has every octave of the first ratio, then of the next one.
    """
    levels = []
    for stride in strides:
        sides = [scale * stride * 2 ** (span * octave / octaves) for octave in range(octaves)]
        grid = [math.ceil(side / stride) for side in image_size]
        if placement == "corners":
            # In float32 as in torchvision: a half may round the other way in float64.
            roots = np.sqrt(np.float32(1) / np.asarray(ratios, np.float32))
            whole = np.asarray([int(side) for side in sides], np.float32)
            both = [(roots[:, None] * whole).ravel(), ((1 / roots)[:, None] * whole).ravel()]
            shapes = 2 * np.round(np.stack(both, -1) / 2)
            centres = [np.arange(count) * (side // count) for count, side in zip(grid, image_size, strict=True)]
        else:
            pairs = [(side / math.sqrt(ratio), side * math.sqrt(ratio)) for side in sides for ratio in ratios]
            shapes = np.asarray(pairs)
            centres = [(np.arange(count) + 0.5) * stride for count in grid]
        levels.append(_lay(centres, shapes).reshape(*grid, -1, 4))
    return tuple(levels)
