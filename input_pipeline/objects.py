"""The objects of an example. Boxes, masks, classes and flags follow the points of the image.

Objects are {"boxes" [N,4] float64 (top, left, bottom, right) in pixels, "classes" [N] int32, "crowd" [N] bool,
"difficult" [N] bool, "area" [N] float64 as annotated} and, where requested, "masks" [N] of masks.Mask. N may be 0.
"""

import numpy as np

from input_pipeline import masks
from input_pipeline.augment.geometry import Window
from input_pipeline.batch import Size

Objects = dict[str, np.ndarray]

SHORTEST = 1e-3  # pixels: a box with a shorter side has no area, however its edges are rounded
FIELDS = ("boxes", "classes", "crowd", "difficult", "area")


def clean(boxes: np.ndarray, size: Size) -> tuple[np.ndarray, list[str]]:
    """Return which `boxes` [N,4] (yxyx pixels) are valid, [N] bool, and each one's fault, "" for a valid one.

    A box that reaches beyond the image is valid. It is clipped later.
    """
    top, left, bottom, right = boxes.T
    height, width = size
    wrong = {  # the first that applies is reported
        "not a finite number": ~np.isfinite(boxes).all(axis=1),
        "reversed": (bottom < top) | (right < left),
        "zero area": (bottom == top) | (right == left),
        "outside the image": (bottom <= 0) | (right <= 0) | (top >= height) | (left >= width),
    }
    reasons = np.select(list(wrong.values()), list(wrong), "").tolist()
    return np.array([not reason for reason in reasons], bool), reasons


def describe(name: str, number: int, class_name: str, reason: str) -> str:
    """Return the line about a bad box. `number` counts an image's annotated objects from 1."""
    return f"{name}: object {number} of class {class_name}: {reason}"


def take(example: dict[str, np.ndarray], *, masks: bool = False) -> Objects:
    """Return the objects of a source's example, with their masks if `masks` is set."""
    return {name: example[name] for name in ((*FIELDS, "masks") if masks else FIELDS)}


def pick(objects: Objects, which: np.ndarray) -> Objects:
    """Return the objects chosen by `which`, [N] bool, or indices in the order wanted."""
    return {name: values[which] for name, values in objects.items()}


def join(parts: list[Objects]) -> Objects:
    """Return the objects of all `parts` as those of one picture, in their order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def area(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of boxes [...,4] in square pixels, [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Return which boxes [...,4] have an area, [...] bool."""
    return np.all(boxes[..., 2:] - boxes[..., :2] >= SHORTEST, axis=-1)


def clip(boxes: np.ndarray, window: Window) -> np.ndarray:
    """Return the parts of boxes [...,4] inside `window`. A box outside it has no area."""
    top, left, bottom, right = window
    return boxes.clip((top, left, top, left), (bottom, right, bottom, right))


def map_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the upright boxes [N,4] around the corners of `boxes` [N,4] under `matrix` [3,3]."""
    top, left, bottom, right = boxes.T
    x, y = np.stack([left, right, left, right]), np.stack([top, top, bottom, bottom])
    across, down = (row[0] * x + row[1] * y + row[2] for row in matrix[:2])
    return np.stack([down.min(0), across.min(0), down.max(0), across.max(0)], -1)


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of each pair of boxes [N,4] and [M,4], [N,M]. It is 0 where the union is empty."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    union = area(boxes)[:, None] + area(others)[None] - shared
    return np.divide(shared, union, out=np.zeros(union.shape), where=union > 0)


def follow_boxes(boxes: np.ndarray, matrix: np.ndarray, window: Window, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes [N,4] in an output of `size` that shows `window` of the image through `matrix` [3,3].

    Also return which of them have an area there, [N] bool.
    """
    inside = clip(boxes, window)
    followed = clip(map_boxes(inside, matrix), (0, 0, *size))
    # A box that was clipped to a line gets an area again when it is rotated.
    return followed, has_area(inside) & has_area(followed)


def follow(objects: Objects, matrix: np.ndarray, window: Window, size: Size, least: float = 0.0) -> Objects:
    """Return the objects in an output of `size` that shows `window` of the image through `matrix` [3,3].

    Boxes follow by their corners and are clipped to the visible part. An object is dropped if less than the share `least`
    of its area is left, or no area at all. A crowd is kept however little of it is left, to exclude its region from training.
    """
    boxes, seen = follow_boxes(objects["boxes"], matrix, window, size)
    whole = area(map_boxes(objects["boxes"], matrix))
    # The least share is rounded in the object's favour.
    seen &= objects["crowd"] | (area(boxes) >= least * whole * (1 - 1e-9))
    followed = pick(objects, seen) | {"boxes": boxes[seen]}
    if "masks" in objects:
        followed["masks"] = masks.move(masks.cut(followed["masks"], window), matrix)
    return followed


def pad(objects: Objects, rows: int, grid: Size | None = None) -> dict[str, np.ndarray]:
    """Return the batch's keys for one picture, the `rows` largest objects in their order, and how many had no room.

    With a `grid`, also return their masks [rows,*grid] uint8, each over its object's box.
    """
    kept = np.sort(np.argsort(-area(objects["boxes"]), kind="stable")[:rows])

    def fill(name: str, dtype: type) -> np.ndarray:
        values = objects[name][kept]
        return np.pad(values.astype(dtype), [(0, rows - len(kept))] + [(0, 0)] * (values.ndim - 1))

    padded = {
        "boxes": fill("boxes", np.float32),
        "classes": fill("classes", np.int32),
        "valid": np.arange(rows) < len(kept),
        "crowd": fill("crowd", np.bool_),
        "difficult": fill("difficult", np.bool_),
        "boxes_lost": np.int32(len(objects["boxes"]) - len(kept)),
    }
    if grid:
        padded["masks"] = np.zeros((rows, *grid), np.uint8)
        for row, i in enumerate(map(int, kept)):
            padded["masks"][row] = masks.frame(objects["masks"][i], objects["boxes"][i], grid)
    return padded


def pad_proposals(boxes: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Return the batch's keys for the proposals [N,4] of one picture, the first `rows` of them."""
    kept = boxes[:rows].astype(np.float32)
    padded = np.pad(kept, [(0, rows - len(kept)), (0, 0)])
    return {"proposals": padded, "proposal_mask": np.arange(rows) < len(kept)}


def none() -> Objects:
    """Return the objects, without masks, of an empty picture."""
    dtypes = (np.float64, np.int32, np.bool_, np.bool_, np.float64)
    return {name: np.zeros((0, 4) if name == "boxes" else 0, dtype) for name, dtype in zip(FIELDS, dtypes, strict=True)}
