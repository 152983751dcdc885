"""YOLO's objective (Redmon et al. 2016, sections 2 to 2.2): each object is predicted by the cell that its centre lies in."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.tasks.base import Arrays, Mean, Means
from experiments.tasks.dense import Detection, Geometry
from fields import NotNegative
from input_pipeline.batch import Size
from models.ops import anchors
from models.ops import boxes as ops

PARTS = ("coordinates", "sizes", "confidence", "no_object", "classes")


class Cells(NamedTuple):
    """Targets of a grid; where `filled` is False, `box` and `index` mean nothing."""

    filled: jax.Array  # [B,R,C] bool: an object is this cell's
    box: jax.Array  # [B,R,C,4] of that object, in pixels
    index: jax.Array  # [B,R,C] int32, its class
    left: jax.Array  # [B,R,C] bool: holds something that is not trained on: left out of the no-object term


class YOLOv1Task(Detection):
    """The sum of equation 3 over an image's cells, a mean over images. For the raw outputs see models.detection.yolov1.

    A cell has one object: the first in the batch's order whose centre lies in it; the others are logged as `unmatched`,
    for each image. Of the cell's boxes, the one with the highest IoU is responsible, and among equals (when none
    overlaps the object at all) the one whose four coordinates have the least squared errors.

    The network predicts the square roots that equation 3 compares, and its sizes are their squares; below zero, zero.
    """

    reads = "cells of a grid"
    advice = (
        "objects share cells: a finer grid (a larger config.data.image_size, a smaller model.stride) separates them"
    )

    def __init__(self, *, lambda_coord: NotNegative, lambda_noobj: NotNegative, **detection):
        """Takes the fields of Detection, and the two factors of equation 3: on places and sizes, and on empty cells."""
        super().__init__(**detection)
        self.lambda_coord, self.lambda_noobj = lambda_coord, lambda_noobj

    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """The five parts of equation 3; logs `boxes_lost` and `unmatched` objects, for each image."""
        size, counted = batch["image"].shape[1:3], batch["example_mask"]
        # Zeros are right about a row without objects: padding costs nothing and has no gradient.
        predicted = {name: jnp.where(_columns(counted, 4), outputs[name], 0.0) for name in ("confidence", "classes")}
        predicted["boxes"] = jnp.where(_columns(counted, 5), outputs["boxes"], 0.0)
        learnable = self.learnable(batch)
        cells = fill_cells(batch, learnable, outputs["cells"].shape[:2], size)
        factors = {
            "coordinates": self.lambda_coord,
            "sizes": self.lambda_coord,
            "no_object": self.lambda_noobj,
        }
        images = jnp.sum(counted, dtype=jnp.float32)
        parts = zip(PARTS, measure(predicted, cells, size), strict=True)
        terms = {name: Mean(part, images, factors.get(name, 1.0)) for name, part in parts}
        unmatched = jnp.sum(learnable, dtype=jnp.float32) - jnp.sum(cells.filled, dtype=jnp.float32)
        return terms, {"boxes_lost": self.boxes_lost(batch), "unmatched": self.mean_per_image(unmatched, batch)}

    def decode(self, outputs: Arrays, size: Size) -> tuple[jax.Array, jax.Array]:
        """A score is a box's confidence times its cell's probability of the class (section 2), neither below zero."""
        boxes = decode(outputs["boxes"], size)
        confidence, classes = (jnp.maximum(outputs[name], 0.0) for name in ("confidence", "classes"))
        scores = confidence[..., None] * classes[..., None, :]
        return boxes.reshape(boxes.shape[0], -1, 4), scores.reshape(boxes.shape[0], -1, scores.shape[-1])

    def matchable(self, geometry: Geometry, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Those that are the first in their cell."""
        first = np.zeros(len(boxes), bool)
        first[np.unique(cell_of(boxes, geometry["cells"].shape[:2], size), return_index=True)[1]] = True
        return first


def cell_of(boxes: jax.Array | np.ndarray, grid: Size, size: Size) -> jax.Array | np.ndarray:
    """The number [...] int32, row by row, of the grid's cell in which the centre of each box [...,4] in pixels lies."""
    rows, columns = (
        ((boxes[..., axis] + boxes[..., axis + 2]) / 2 * (grid[axis] / size[axis]))
        .astype("int32")
        .clip(0, grid[axis] - 1)
        for axis in (0, 1)
    )
    return rows * grid[1] + columns


def fill_cells(batch: Arrays, learnable: jax.Array, grid: Size, size: Size) -> Cells:
    """The objects that are `learnable` [B,M] in the cells of an image of `size`.

    Left is a cell whose centre lies in a crowd region, or that would be a difficult object's if those were trained on.
    """
    boxes, crowd = batch["boxes"], batch["valid"] & batch["crowd"]
    everywhere = jnp.arange(grid[0] * grid[1], dtype=jnp.int32)[None, :, None]
    its_own = cell_of(boxes, grid, size)[:, None] == everywhere  # [B,R*C,M]
    inside = its_own & learnable[:, None]
    owner = jnp.argmax(inside, -1)  # the first
    centre = ops.to_centres(anchors.cells(size, grid)).reshape(1, -1, 1, 4)[..., :2]
    covered = jnp.all((boxes[:, None, :, :2] <= centre) & (centre < boxes[:, None, :, 2:]), -1)
    left = jnp.where(crowd[:, None], covered, its_own & (batch["valid"] & ~learnable)[:, None])
    return Cells(
        filled=inside.any(-1).reshape(-1, *grid),
        box=jnp.take_along_axis(boxes, owner[..., None], 1).reshape(-1, *grid, 4),
        index=jnp.take_along_axis(batch["classes"], owner, 1).reshape(-1, *grid),
        left=left.any(-1).reshape(-1, *grid),
    )


def encode(boxes: jax.Array, size: Size) -> jax.Array:
    """(y, x, square root of h, of w) [B,R,C,4] of boxes [B,R,C,4] in pixels, each by the cell that it stands at.

    y and x are the centre's, from the cell's top left corner in units of the cell; h and w are fractions of the image.
    """
    corner, sides = _lattice(boxes.shape[1:3], size)
    centres = ops.to_centres(boxes)
    return jnp.concatenate([(centres[..., :2] - corner) / sides, jnp.sqrt(centres[..., 2:] / _array(size))], -1)


def decode(coordinates: jax.Array, size: Size) -> jax.Array:
    """Boxes [B,R,C,K,4] in pixels of coordinates [B,R,C,K,4] as in `encode`, K of them at each cell."""
    corner, sides = (values[..., None, :] for values in _lattice(coordinates.shape[1:3], size))
    middle = corner + coordinates[..., :2] * sides
    return ops.from_centres(jnp.concatenate([middle, jnp.maximum(coordinates[..., 2:], 0) ** 2 * _array(size)], -1))


def find_responsible(coordinates: jax.Array, cells: Cells, size: Size) -> tuple[jax.Array, jax.Array]:
    """Which [B,R,C,K] bool of the boxes that are predicted, `coordinates` [B,R,C,K,4], is an object's, and its IoU.

    Both are constants: one True in each filled cell and none elsewhere, and the IoU [B,R,C] of that one.
    """
    coordinates = lax.stop_gradient(coordinates)
    iou = ops.iou(decode(coordinates, size), cells.box[..., None, :])
    best = iou.max(-1, keepdims=True)
    distance = jnp.sum((coordinates - encode(cells.box, size)[..., None, :]) ** 2, -1)
    nearest = jnp.argmin(jnp.where(iou == best, distance, jnp.inf), -1)
    chosen = nearest[..., None] == jnp.arange(iou.shape[-1])[None, None, None]
    return chosen & cells.filled[..., None], best[..., 0]


def measure(outputs: Arrays, cells: Cells, size: Size) -> tuple[jax.Array, ...]:
    """The sums of the squared errors of equation 3 over a batch, a scalar for each of PARTS, without lambdas."""
    responsible, iou = find_responsible(outputs["boxes"], cells, size)
    truth = encode(cells.box, size)[..., None, :]
    errors = jnp.where(responsible[..., None], (outputs["boxes"] - truth) ** 2, 0.0)
    confidence = outputs["confidence"]
    found = jnp.where(responsible, (confidence - iou[..., None]) ** 2, 0.0)
    empty = jnp.where(responsible | cells.left[..., None], 0.0, confidence**2)
    classes = (outputs["classes"] - jax.nn.one_hot(cells.index, outputs["classes"].shape[-1])) ** 2
    classes = jnp.where(cells.filled[..., None], classes, 0.0)
    return tuple(map(jnp.sum, (errors[..., :2], errors[..., 2:], found, empty, classes)))


def _lattice(grid: Size, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """The top left corner and the sides, [1,R,C,2] each, of every cell."""
    cells = anchors.cells(size, grid)[None]
    return cells[..., :2], cells[..., 2:] - cells[..., :2]


def _array(size: Size) -> np.ndarray:
    return np.asarray(size, np.float32)


def _columns(rows: jax.Array, ndim: int) -> jax.Array:
    """[B] -> [B,1,...] of `ndim` axes."""
    return rows.reshape(-1, *(1,) * (ndim - 1))
