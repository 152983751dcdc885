"""An example's objects: boxes that go where the image's points go, with their masks, classes and flags.

Objects are {"boxes" [N,4] float64 (top, left, bottom, right) in pixels, "classes" [N] int32, "crowd" [N] bool,
"difficult" [N] bool, "area" [N] float64 as annotated} and, where they are asked for, "masks" [N] of masks.Mask. N may be 0.
"""

import numpy as np

from input_pipeline import masks
from input_pipeline.augment.geometry import Window
from input_pipeline.batch import Size

Objects = dict[str, np.ndarray]

SHORTEST = 1e-3  # pixels: a box with a shorter side has no area, however its edges are rounded
FIELDS = ("boxes", "classes", "crowd", "difficult", "area")


def clean(boxes: np.ndarray, size: Size) -> tuple[np.ndarray, list[str]]:
    """Which `boxes` [N,4] (yxyx pixels) of an image are valid: [N] bool, and what is wrong with each, "" for a valid one.

    A box that reaches beyond the image is valid: it is clipped later.
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
    """A bad box in words; `number` counts an image's annotated objects from 1."""
    return f"{name}: object {number} of class {class_name}: {reason}"


def take(example: dict[str, np.ndarray], *, masks: bool = False) -> Objects:
    """The objects of a source's example, with their masks if they are asked for."""
    return {name: example[name] for name in ((*FIELDS, "masks") if masks else FIELDS)}


def pick(objects: Objects, which: np.ndarray) -> Objects:
    """Those of the objects that `which` names: [N] bool, or indices in the order wanted."""
    return {name: values[which] for name, values in objects.items()}


def join(parts: list[Objects]) -> Objects:
    """The objects of one picture from all `parts`, in their order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def area(boxes: np.ndarray) -> np.ndarray:
    """[...,4] -> [...] square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def has_area(boxes: np.ndarray) -> np.ndarray:
    """[...,4] -> [...] bool."""
    return (boxes[..., 2:] - boxes[..., :2] >= SHORTEST).all(-1)


def clip(boxes: np.ndarray, window: Window) -> np.ndarray:
    """[...,4] -> [...,4]: what of the boxes lies in `window`; without area where nothing does."""
    top, left, bottom, right = window
    return boxes.clip((top, left, top, left), (bottom, right, bottom, right))


def map_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[N,4] -> [N,4]: the upright boxes around the corners of `boxes` under `matrix` [3,3]."""
    top, left, bottom, right = boxes.T
    x, y = np.stack([left, right, left, right]), np.stack([top, top, bottom, bottom])
    across, down = (row[0] * x + row[1] * y + row[2] for row in matrix[:2])
    return np.stack([down.min(0), across.min(0), down.max(0), across.max(0)], -1)


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N,4] and [M,4] -> [N,M]: the intersection over the union of each two; 0 where the union is empty."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    union = area(boxes)[:, None] + area(others)[None] - shared
    return np.divide(shared, union, out=np.zeros(union.shape), where=union > 0)


def follow_boxes(boxes: np.ndarray, matrix: np.ndarray, window: Window, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """[N,4] -> [N,4] as an output of `size` has them, that shows `window` of the image through `matrix` [3,3].

    And [N] bool: which of them have area there.
    """
    inside = clip(boxes, window)
    followed = clip(map_boxes(inside, matrix), (0, 0, *size))
    # A box that was clipped to a line has area again when it is turned.
    return followed, has_area(inside) & has_area(followed)


def follow(objects: Objects, matrix: np.ndarray, window: Window, size: Size, least: float = 0.0) -> Objects:
    """The objects as an output of `size` has them, that shows `window` of the image through `matrix` [3,3].

    Boxes follow by their corners and are clipped to what is seen. An object is dropped that has less than the share
    `least` of its area left, or no area at all; a crowd is kept however little of it is left: it marks what not to train on.
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
    """The batch's keys for one picture: the `rows` largest objects in their order, and how many had no room.

    With a `grid`, their masks [rows,*grid] uint8 too, each over its object's box.
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
        for row, i in enumerate(kept):
            padded["masks"][row] = masks.frame(objects["masks"][i], objects["boxes"][i], grid)
    return padded


def pad_proposals(boxes: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """The batch's keys for the proposals [N,4] of one picture: the first `rows` of them."""
    kept = boxes[:rows].astype(np.float32)
    padded = np.pad(kept, [(0, rows - len(kept)), (0, 0)])
    return {"proposals": padded, "proposal_mask": np.arange(rows) < len(kept)}


def none() -> Objects:
    """The objects, without masks, of a picture that has none."""
    dtypes = (np.float64, np.int32, np.bool_, np.bool_, np.float64)
    return {name: np.zeros((0, 4) if name == "boxes" else 0, dtype) for name, dtype in zip(FIELDS, dtypes, strict=True)}
