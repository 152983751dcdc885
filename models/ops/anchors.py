"""Boxes that a detector's outputs stand at: constants of a program, in numpy.

All are (top, left, bottom, right) in pixels, float32, ordered by level, row, column and shape, and not clipped to the
image. A ratio is width / height.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

Size = tuple[int, int]  # (height, width)
Placement = Literal["centres", "corners"]  # of the cells: where a pyramid's anchors are centred


def _lay(rows: np.ndarray, columns: np.ndarray, shapes: Sequence[tuple[float, float]]) -> np.ndarray:
    """Boxes [h*w*k,4] of k shapes (height, width), each around every centre of h rows and w columns."""
    middle = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 1, 2)
    half = np.asarray(shapes) / 2
    return np.concatenate([middle - half, middle + half], -1).reshape(-1, 4).astype(np.float32)


def default_boxes(
    image_size: Size,
    grids: Sequence[Size],
    sizes: Sequence[float],
    ratios: Sequence[Sequence[float]],
    *,
    steps: Sequence[float] = (),
    within: bool = False,
) -> np.ndarray:
    """SSD's default boxes [A,4] (Liu et al. 2016, section 2.2).

    `grids` are the (rows, columns) of the levels, `sizes` their scales as fractions of the image's sides and one more
    for the last level's extra box, `ratios` a level's ratios over 1. A level's shapes are a square of its scale s_k, the
    extra one of sqrt(s_k s_k+1), then each ratio and its inverse: (4, 6, 6, 6, 4, 4) shapes are SSD300's 8,732 boxes.

    `steps` are the pixels from one centre to the next of each level, the first at half of them; without, the grid's, side /
    count. `within` cuts a shape to the image's sides around its centre, which stays.
    """
    levels = []
    units = steps or [None] * len(grids)
    for grid, scale, following, wide, step in zip(grids, sizes[:-1], sizes[1:], ratios, units, strict=True):
        shapes = [(scale, scale), (math.sqrt(scale * following),) * 2]
        for root in map(math.sqrt, wide):
            shapes += [(scale / root, scale * root), (scale * root, scale / root)]
        shapes = np.minimum(shapes, 1.0) if within else shapes
        centres = [
            (np.arange(count) + 0.5) * (step or side / count) for count, side in zip(grid, image_size, strict=True)
        ]
        levels.append(_lay(*centres, np.multiply(shapes, image_size)))
    return np.concatenate(levels)


def cells(image_size: Size, grid: Size) -> np.ndarray:
    """The cells [h,w,4] of a `grid` (rows, columns) over the image: YOLO's (Redmon et al. 2016, section 2)."""
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
) -> tuple[np.ndarray, ...]:
    """Anchors [h,w,k,4] of each level of a pyramid (Lin et al. 2017, Focal Loss, section 4).

    A level has h = ceil(side / stride) rows, as many columns w, and k = octaves * ratios shapes: of an area of (scale *
    stride * 2^(span * o / octaves))^2 for each o below `octaves`, each with every ratio. RetinaNet's scale is 4. A scale of
    1 with one octave and the ratio 1 gives FCOS's locations: their centres, with boxes as large as a step. A scale of 8
    with three octaves that span 3 gives the anchors of 128, 256 and 512 pixels of Faster R-CNN's one level, of stride 16.

    With the `placement` "corners" they are those that torchvision's detectors were trained with. The sides are cut to
    whole pixels and then halved and rounded, half to even, so that an anchor reaches whole pixels to each side of its
    centre. The centres are the cells' top left corners, which are side // rows and side // columns apart: less than the
    stride where that does not divide the image. A cell has every octave of the first ratio, then of the next one.
    """
    levels = []
    for stride in strides:
        sides = [scale * stride * 2 ** (span * octave / octaves) for octave in range(octaves)]
        grid = [math.ceil(side / stride) for side in image_size]
        if placement == "corners":
            # In float32 as there, where a half decides.
            roots = np.sqrt(np.float32(1) / np.asarray(ratios, np.float32))
            whole = np.asarray([int(side) for side in sides], np.float32)
            both = [(roots[:, None] * whole).ravel(), ((1 / roots)[:, None] * whole).ravel()]
            shapes = 2 * np.round(np.stack(both, -1) / 2)
            centres = [np.arange(count) * (side // count) for count, side in zip(grid, image_size, strict=True)]
        else:
            shapes = [(side / math.sqrt(ratio), side * math.sqrt(ratio)) for side in sides for ratio in ratios]
            centres = [(np.arange(count) + 0.5) * stride for count in grid]
        levels.append(_lay(*centres, shapes).reshape(*grid, -1, 4))
    return tuple(levels)
