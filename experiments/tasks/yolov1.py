"""YOLO's loss, in which the cell that contains an object's centre predicts it (Redmon et al. 2016, sections 2 to 2.2)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from experiments.tasks.base import AnyArray, Arrays, Mean, Means, Outputs, image_size
from experiments.tasks.dense import Detection
from fields import NotNegative
from input_pipeline.batch import Size
from models.detection.yolov1 import YOLOv1
from models.ops import anchors
from models.ops import boxes as ops

PARTS = ("coordinates", "sizes", "confidence", "no_object", "classes")


class Cells(NamedTuple):
    """Training targets of the cells of a grid."""

    filled: Bool[Array, "b h w"]  # the cell has an object
    box: Float[Array, "b h w 4"]  # of the object, in pixels; arbitrary if there is none
    classes: Int[Array, "b h w"]  # of the object; arbitrary if there is none
    left: Bool[Array, "b h w"]  # a crowd or an object not trained on is there: the no-object term leaves the cell out


class YOLOv1Task(Detection[YOLOv1]):
    """Equation 3, summed over an image's cells and averaged over images. models/detection/yolov1.py defines the raw outputs.

    A cell has one object, the first in the batch's order whose centre lies in it. The number of other objects per image is
    logged as `unmatched`. The cell's box with the highest IoU is responsible for the object. Among equals (when none overlaps
    the object) it is the one whose four coordinates have the smallest squared errors.

    The network predicts the square roots that equation 3 compares. Sizes are their squares, and 0 for negative ones.
    """

    reads = "grid cells"
    advice = (
        "objects share cells: a finer grid (a larger config.data.image_size, a smaller model.stride) separates them"
    )

    def __init__(self, *, lambda_coord: NotNegative, lambda_noobj: NotNegative, **detection):
        """Take the fields of Detection, and equation 3's factors on coordinates and sizes, and on empty cells."""
        super().__init__(**detection)
        self.lambda_coord, self.lambda_noobj = lambda_coord, lambda_noobj

    def loss(self, outputs: Outputs, batch: Arrays) -> tuple[Means, Means]:
        """Return the five parts of equation 3. Log `boxes_lost` and `unmatched` objects per image."""
        size, counted = image_size(batch), batch["example_mask"]
        # Zeros are correct for a row without objects: padding costs nothing and has no gradient.
        predicted = {name: jnp.where(_columns(counted, 4), outputs[name], 0.0) for name in ("confidence", "classes")}
        predicted["boxes"] = jnp.where(_columns(counted, 5), outputs["boxes"], 0.0)
        learnable = self.learnable(batch)
        rows, columns, _ = outputs["cells"].shape
        cells = fill_cells(batch, learnable, (rows, columns), size)
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

    def decode(self, outputs: Outputs, size: Size) -> tuple[Float[Array, "b n 4"], Float[Array, "b n c"]]:
        """Return each box, and its confidence times its cell's class probabilities, neither below 0 (section 2)."""
        boxes = decode(outputs["boxes"], size)
        confidence, classes = (jnp.maximum(outputs[name], 0.0) for name in ("confidence", "classes"))
        scores = confidence[..., None] * classes[..., None, :]
        return boxes.reshape(boxes.shape[0], -1, 4), scores.reshape(boxes.shape[0], -1, scores.shape[-1])

    def matchable(
        self, geometry: Mapping[str, Float[np.ndarray, "h w 4"]], boxes: Float[np.ndarray, "m 4"], size: Size
    ) -> Bool[np.ndarray, " m"]:
        """Return which boxes are the first in their cell."""
        first, (rows, columns, _) = np.zeros(len(boxes), bool), geometry["cells"].shape
        first[np.unique(cell_of(boxes, (rows, columns), size), return_index=True)[1]] = True
        return first


def cell_of(boxes: Float[AnyArray, "*batch 4"], grid: Size, size: Size) -> Int[AnyArray, "*batch"]:
    """Return the index, row by row, of the cell that contains the centre of each box."""
    rows, columns = (
        ((boxes[..., axis] + boxes[..., axis + 2]) / 2 * (grid[axis] / size[axis]))
        .astype("int32")
        .clip(0, grid[axis] - 1)
        for axis in (0, 1)
    )
    return rows * grid[1] + columns


def fill_cells(batch: Arrays, learnable: Bool[Array, "b m"], grid: Size, size: Size) -> Cells:
    """Assign the learnable objects to the cells of an image of `size`.

    A cell is `left` if its centre lies in a crowd, or if it contains the centre of a difficult object not trained on.
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
        classes=jnp.take_along_axis(batch["classes"], owner, 1).reshape(-1, *grid),
        left=left.any(-1).reshape(-1, *grid),
    )


def encode(boxes: Float[Array, "b h w 4"], size: Size) -> Float[Array, "b h w 4"]:
    """Return the coordinates (y, x, square root of h, square root of w) of boxes, one at each cell.

    (y, x) is the centre's distance from the cell's top left corner, in units of the cell. h and w are fractions of the
    image's sides.
    """
    corner, sides = _lattice(boxes, size)
    centres = ops.to_centres(boxes)
    return jnp.concatenate([(centres[..., :2] - corner) / sides, jnp.sqrt(centres[..., 2:] / _array(size))], -1)


def decode(coordinates: Float[Array, "b h w k 4"], size: Size) -> Float[Array, "b h w k 4"]:
    """Return the boxes in pixels of coordinates as in `encode`, k at each cell."""
    corner, sides = (values[..., None, :] for values in _lattice(coordinates, size))
    middle = corner + coordinates[..., :2] * sides
    return ops.from_centres(jnp.concatenate([middle, jnp.maximum(coordinates[..., 2:], 0) ** 2 * _array(size)], -1))


def find_responsible(
    coordinates: Float[Array, "b h w k 4"], cells: Cells, size: Size
) -> tuple[Bool[Array, "b h w k"], Float[Array, "b h w"]]:
    """Return which predicted box of each filled cell is responsible for its object, and this box's IoU.

    Both are constants of the gradient. Cells without an object have no responsible box.
    """
    coordinates = lax.stop_gradient(coordinates)
    iou = ops.iou(decode(coordinates, size), cells.box[..., None, :])
    best = iou.max(-1, keepdims=True)
    distance = jnp.sum((coordinates - encode(cells.box, size)[..., None, :]) ** 2, -1)
    nearest = jnp.argmin(jnp.where(iou == best, distance, jnp.inf), -1)
    chosen = nearest[..., None] == jnp.arange(iou.shape[-1])[None, None, None]
    return chosen & cells.filled[..., None], best[..., 0]


def measure(outputs: Outputs, cells: Cells, size: Size) -> tuple[Float[Array, ""], ...]:
    """Return the sums of squared errors of equation 3 over a batch, one for each of PARTS, without the lambdas."""
    responsible, iou = find_responsible(outputs["boxes"], cells, size)
    truth = encode(cells.box, size)[..., None, :]
    errors = jnp.where(responsible[..., None], (outputs["boxes"] - truth) ** 2, 0.0)
    confidence = outputs["confidence"]
    found = jnp.where(responsible, (confidence - iou[..., None]) ** 2, 0.0)
    empty = jnp.where(responsible | cells.left[..., None], 0.0, confidence**2)
    classes = (outputs["classes"] - jax.nn.one_hot(cells.classes, outputs["classes"].shape[-1])) ** 2
    classes = jnp.where(cells.filled[..., None], classes, 0.0)
    return tuple(map(jnp.sum, (errors[..., :2], errors[..., 2:], found, empty, classes)))


def _lattice(
    like: Float[Array, "b h w *rest"], size: Size
) -> tuple[Float[np.ndarray, "1 h w 2"], Float[np.ndarray, "1 h w 2"]]:
    """Return the top left corner and the sides of each cell of a grid."""
    cells = anchors.cells(size, (like.shape[1], like.shape[2]))[None]
    return cells[..., :2], cells[..., 2:] - cells[..., :2]


def _array(size: Size) -> Float[np.ndarray, "2"]:
    return np.asarray(size, np.float32)


def _columns(rows: Shaped[Array, " b"], ndim: int) -> Shaped[Array, "b ..."]:
    """Add axes of length 1 at the end, up to `ndim` axes."""
    return rows.reshape(-1, *(1,) * (ndim - 1))
