"""Ultralytics' text, with one row per object of `class` and numbers in fractions of the image.

Four numbers are a box, more are a polygon. But keypoints and the corners of oriented boxes are also written as rows of numbers,
so only all rows of a dataset together show the meaning.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Iterable
from typing import NoReturn

import numpy as np

from errors import UserError
from input_pipeline.annotations import box_kinds
from input_pipeline.annotations.annotated_image import Annotation
from input_pipeline.annotations.masks import LEAST, is_polygon
from input_pipeline.annotations.yolo_data import DataFile

LARGEST = 2.0  # larger values are pixels, not fractions; a little more than 1 is an object that leaves the image
CORNERS = 8  # numbers of an oriented box
LOOKED_AT = 2000  # maximum number of rows of a dataset that are examined
PAIRS = 20_000_000  # maximum number of pairs of edges in the examined rows: the longer the rows, the fewer are examined
ROUNDED = 0.005  # written corners may differ this much from a rectangle's
SAY = "set task: segment or kpt_shape: [keypoints, 2 or 3] in data.yaml"

Row = tuple[int, tuple[float, ...]]  # the number of the class, and the numbers after it


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The meaning of the rows of a dataset."""

    keypoints: int = 0  # numbers after the four of the box, which are not read
    oriented: bool = False  # four corners are an oriented box, not a mask

    def note(self) -> str:
        """Return a remark on the part of the rows that is not read."""
        if self.keypoints:
            return "rows hold keypoints, which are ignored: the first four numbers are the box"
        if self.oriented:
            return (
                "rows are the corners of oriented boxes: they are read as the upright boxes around them, without masks"
            )
        return ""


def read_row(row: str, classes: Collection[int]) -> Row:
    """Read one object. Raise UserError that names the fault of the row."""
    try:
        number, *values = map(float, row.split())
    except ValueError:
        raise UserError(f"{row.strip()[:80]!r} contains something that is not a number") from None
    if number not in classes:
        raise UserError(
            f"class {row.split()[0]} is unknown; the classes are {_say_classes(classes)}: add its name, or correct the number"
        )
    # The fifth of five numbers may be an angle in degrees, which has its own error.
    far = [value for value in (values[:4] if len(values) == 5 else values) if abs(value) > LARGEST]
    if far:
        raise UserError(f"{far[0]:g} is not a fraction of the image; divide x by the width and y by the height")
    return int(number), tuple(values)


def find_meaning(where: pathlib.Path, rows: Iterable[Row], data: DataFile | None) -> Meaning:
    """Find the meaning of the rows of a whole dataset. Raise UserError where it is not a supported one.

    `where` is the folder of the dataset and `data` its data file, whose `kpt_shape` and `task` decide if they are there.
    """
    values = [numbers for _, numbers in rows]
    shape, task = (data.keypoints, data.task) if data else (None, "")
    if shape:
        return Meaning(keypoints=shape[0] * shape[1])
    if data and task == "pose":
        raise UserError(f"{data.path}: task is pose, but kpt_shape is missing; add kpt_shape: [keypoints, 2 or 3]")
    boxes = np.array([numbers for numbers in values if len(numbers) == 4]).reshape(-1, 4)
    unknown = np.full((len(boxes), 4), np.nan)
    kind = box_kinds.recognise(
        boxes, "centre x, centre y, width, height", np.ones((len(boxes), 2)), unknown, unknown[:, 0]
    )
    if kind:
        raise UserError(
            f"{where}: the four numbers of the boxes look like {kind}: read as centre x, centre y, width, height, many boxes "
            "leave the image; convert them to that"
        )
    if values and all(len(numbers) == 5 for numbers in values):
        _refuse_fifth(where, [numbers[4] for numbers in values])
    longer = [numbers for numbers in values if len(numbers) > 4]
    length = len(longer[0]) if longer else 0
    if task == "segment" or not longer or any(len(numbers) != length for numbers in longer):
        return Meaning()
    if task == "obb":
        return Meaning(oriented=True)
    most = min(LOOKED_AT, PAIRS // (length // 2) ** 2)
    if not most:  # only a polygon has so many points
        return Meaning()
    return _judge(where, np.array(longer[:: len(longer) // most + 1]))


def convert(row: Row, labels: dict[int, int], meaning: Meaning) -> Annotation:
    """Convert a row to an object in fractions of the image. `labels` are the classes' places. Raise UserError."""
    (number, values), segmentation, written = row, (), ()
    if meaning.keypoints:
        if len(values) not in (4, 4 + meaning.keypoints):
            raise UserError(
                f"{len(values)} numbers after the class; kpt_shape requires 4 for the box and {meaning.keypoints} more"
            )
        values, written = values[:4], values
    if len(values) == 4:
        x, y, width, height = values
        box = (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
        return Annotation(box, labels[number], written=written)
    if len(values) < LEAST or not is_polygon(list(values)):
        more = "; a fifth may be a confidence or an angle" if len(values) == 5 else ""
        raise UserError(
            f"{len(values)} numbers after the class; a box has 4 (centre x, centre y, width, height), a polygon has x and y of "
            f"at least 3 points{more}"
        )
    xs, ys = values[::2], values[1::2]
    if meaning.oriented:
        written = values
    else:
        segmentation = [list(values)]
    return Annotation((min(ys), min(xs), max(ys), max(xs)), labels[number], segmentation=segmentation, written=written)


def _refuse_fifth(where: pathlib.Path, fifths: list[float]) -> NoReturn:
    """Raise UserError that explains the possible meanings of a fifth number."""
    angle = "the angle of an oriented box: in that case write its four corners, x1 y1 x2 y2 x3 y3 x4 y4"
    may_be = f"is probably {angle}"
    if all(0 <= value <= 1 for value in fifths):
        may_be = f"may be a confidence: in that case remove it; or {angle}"
    raise UserError(
        f"{where}: all rows have 5 numbers after the class; a box has 4 (centre x, centre y, width, height), and the "
        f"fifth {may_be}"
    )


def _judge(where: pathlib.Path, rows: np.ndarray) -> Meaning:
    """Judge rows [N,n] of one length, more than 4 numbers each. Raise UserError if they look like keypoints."""
    number = rows.shape[1] - 4
    x, y, width, height = rows[:, :4].T
    slack = box_kinds.BEYOND
    edges = np.stack([x - width / 2, y - height / 2, 1 - x - width / 2, 1 - y - height / 2], 1)
    boxes = (edges >= -slack).all(1) & (width > 0) & (height > 0)
    if not boxes.all():
        return _judge_corners(rows)
    looks = ""
    flags = rows[:, 6::3] if number % 3 == 0 else np.empty((0, 0))
    if flags.size and np.isin(flags, (0, 1, 2)).all() and ((flags == 2).any() or len(rows) > 4):
        looks = f"a box and {_count_points(number // 3)} with visibility: kpt_shape: [{number // 3}, 3]"
    elif (
        number == 2
    ):  # in triangles, the last corner is rarely always inside the box that the other four numbers would mean
        if (np.abs(rows[:, 4:] - rows[:, :2]) <= rows[:, 2:4] / 2).all(1).mean() >= box_kinds.MOST:
            looks = f"a box and {_count_points(1)}: kpt_shape: [1, 2]"
    elif number % 2 == 0:
        points = rows[:, 4:].reshape(len(rows), -1, 2)
        broken = np.array([not is_simple(row.reshape(-1, 2)) for row in rows])
        if broken.mean() > 0.1 or _surrounds(points, rows[:, :2]).mean() > box_kinds.ENOUGH:
            looks = f"a box and {_count_points(number // 2)}: kpt_shape: [{number // 2}, 2]"
    if looks:
        raise UserError(f"{where}: all rows of more than 4 numbers have {rows.shape[1]} and look like {looks}; {SAY}")
    return _judge_corners(rows)


def _count_points(number: int) -> str:
    return f"{number} keypoint{'s' if number > 1 else ''}"


def _judge_corners(rows: np.ndarray) -> Meaning:
    """Judge whether rows of four points are rectangles, some of them rotated. Polygons drawn by hand are not."""
    if rows.shape[1] != CORNERS:
        return Meaning()
    corners = rows.reshape(-1, 4, 2)
    parallel = (np.abs(corners[:, 0] + corners[:, 2] - corners[:, 1] - corners[:, 3]) <= ROUNDED).all(1)
    sides = np.abs(corners[:, 1] - corners[:, 0]).min(1)
    return Meaning(oriented=bool(parallel.all() and (sides > 2 * ROUNDED).any()))


def _surrounds(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return whether points [N,K,2] lie on all sides of `centres` [N,2], [N] bool.

    The other corners of a polygon do not surround one of its corners.
    """
    angles = np.sort(np.arctan2(*(points - centres[:, None]).transpose(2, 0, 1)), axis=1)
    gaps = np.diff(angles, axis=1, append=angles[:, :1] + 2 * np.pi)
    return gaps.max(1) < np.pi - 1e-6


def is_simple(points: np.ndarray) -> bool:
    """Return whether a polygon [K,2] has an area and no two of its edges cross."""
    ends = np.roll(points, -1, 0)
    x, y = points.T
    if abs(np.sum(x * ends[:, 1] - ends[:, 0] * y)) / 2 < 1e-9:
        return False

    def side(of: np.ndarray) -> np.ndarray:
        """Return on which side of edge i the point j is, [K,K]."""
        along, to = (ends - points)[:, None], of[None] - points[:, None]
        return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]

    apart = side(points) * side(ends) < -1e-18
    return not (apart & apart.T).any()


def _say_classes(classes: Collection[int]) -> str:
    numbers = sorted(classes)
    if numbers == list(range(len(numbers))):
        return f"{len(numbers)} (0 to {len(numbers) - 1})"
    return f"{len(numbers)} ({', '.join(map(str, numbers[:10]))}{' ...' if len(numbers) > 10 else ''})"
