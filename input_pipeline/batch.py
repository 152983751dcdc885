"""The Batch, which the input pipeline hands to a training or evaluation step. It is a plain dict of numpy arrays.

key             shape        dtype    meaning
image           [B, H, W, 3] uint8    RGB, not normalised: the device does that, so that a quarter of the bytes are transferred
image_id        [B]          int32    index of the example in its source: source[image_id], source.name(image_id)
example_mask    [B]          bool     False for the rows that fill up the last evaluation batch; no score or loss counts them
original_size   [B, 2]       int32    (height, width) of the image as stored
to_original     [B, 2, 3]    float32  maps a point of `image` to the same point of the stored image

The task decides whether a label or objects follow (input_pipeline/truths.py). There are M = config.data.max_boxes objects:

label           [B, H, W]    uint8    class of each pixel, IGNORE (255) where it is unknown or outside the image
weight_map      [B, H, W]    float32  only in training with config.data.weight_map: U-Net's weight of each pixel

boxes           [B, M, 4]    float32  (top, left, bottom, right) in pixels of `image`; zeros where `valid` is False
classes         [B, M]       int32    index in the source's class_names, which have no background
valid           [B, M]       bool     the row holds an object
crowd           [B, M]       bool     a region of many objects, neither trained on nor counted against a detection
difficult       [B, M]       bool     VOC's flag
boxes_lost      [B]          int32    number of objects in the picture beyond M
masks           [B, M, h, w] uint8    only where the task needs them, h and w of config.data.mask_size: 1 where the centre of
                                      a cell, of h x w in the object's box, is on the object; zeros where `valid` is False

proposals       [B, P, 4]    float32  only where the task needs them, P = config.data.max_proposals: the image's stored boxes as
                                      `image` shows them, the best first, yxyx; zeros where `proposal_mask` is False
proposal_mask   [B, P]       bool     the row holds a proposal; with fewer than P proposals, the last rows are False

Points are (x, y) in pixels with x to the right, measured from the image's top left *corner*: the pixel in row r and
column c covers [c, c+1] x [r, r+1] and has its centre at (c + 0.5, r + 0.5). A resize is then a pure scaling and a flip
is x -> W - x, with no half-pixel corrections. Elastic deformation is not part of `to_original`.

B is the batch of one process: the global batch divided by the number of processes. Rows of padding hold zeros in `image`,
IGNORE in `label`, no object, no proposal, 0 in `image_id`, the canvas in `original_size` and the identity in `to_original`.
A picture made of several examples has the `image_id`, `original_size` and `to_original` of the first.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from wording import name_some

Batch = dict[str, np.ndarray]  # or one row of it, without its first axis
Example = dict[str, np.ndarray]  # an image with its ground truth, as input_pipeline/sources.py has it
Size = tuple[int, int]  # (height, width) in pixels
IGNORE = 255
SHOWN = 3  # faults that an error names; the rest are counted

SPECIFICATION = {  # key: (shape, dtype); equal letters are equal sizes
    "image": (("B", "H", "W", 3), np.uint8),
    "image_id": (("B",), np.int32),
    "example_mask": (("B",), np.bool_),
    "original_size": (("B", 2), np.int32),
    "to_original": (("B", 2, 3), np.float32),
    "label": (("B", "H", "W"), np.uint8),
    "weight_map": (("B", "H", "W"), np.float32),
    "boxes": (("B", "M", 4), np.float32),
    "classes": (("B", "M"), np.int32),
    "valid": (("B", "M"), np.bool_),
    "crowd": (("B", "M"), np.bool_),
    "difficult": (("B", "M"), np.bool_),
    "boxes_lost": (("B",), np.int32),
    "masks": (("B", "M", "h", "w"), np.uint8),
    "proposals": (("B", "P", 4), np.float32),
    "proposal_mask": (("B", "P"), np.bool_),
}
ALWAYS = ("image", "image_id", "example_mask", "original_size", "to_original")
OBJECTS = ("boxes", "classes", "valid", "crowd", "difficult", "boxes_lost")
PROPOSALS = ("proposals", "proposal_mask")


class Examples(Protocol):
    """Examples by index, with all that an evaluation asks of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """Return the example's file name, or the dataset's own id."""
        ...

    def size(self, index: int) -> Size:
        """Return (height, width) of the image, without decoding it."""
        ...


def refuse(what: str, wrong: list[str], remedy: str = "") -> None:
    """Raise UserError that counts the faults in `wrong` and names the first few. Do nothing where there are none."""
    if wrong:
        raise UserError(f"{what} ({len(wrong)}): {name_some(wrong, SHOWN, ' | ')}{remedy}")


def count(names: Sequence[str], one: str, several: str) -> list[str]:
    """Return `["3 SEVERAL: a; b; c"]` or `["1 ONE: a"]`, or an empty list where there are no names."""
    if not names:
        return []
    return [f"{len(names)} {one if len(names) == 1 else several}: {name_some(names, SHOWN, '; ')}"]


def list_canvases(data: ConfigDict) -> list[Size]:
    """Return the canvases of config.data. Without any, image_size is the only one."""
    return [tuple(canvas) for canvas in data.canvases or (data.image_size,)]


def specify(
    keys: Iterable[str], data: ConfigDict, canvas: Size, count: Any
) -> dict[str, tuple[tuple[Any, ...], np.dtype]]:
    """Return the shape and dtype of each key in a batch of `count` images (a number or a symbol) on a canvas."""
    sizes = dict(zip("BHWMPhw", (count, *canvas, data.max_boxes, data.max_proposals, *data.mask_size), strict=True))
    return {
        key: (tuple(sizes.get(axis, axis) for axis in SPECIFICATION[key][0]), np.dtype(SPECIFICATION[key][1]))
        for key in keys
    }


def row(image: np.ndarray, truth: Batch, index: int, original: Size, matrix: np.ndarray) -> Batch:
    """Return one example as a row of a batch.

    `truth` holds its ground truth. `matrix` [3,3] maps the points of the stored image, of size `original`, to those of
    `image`.
    """
    return {
        "image": image,
        **truth,
        "image_id": np.array(index, np.int32),
        "example_mask": np.array(True),
        "original_size": np.array(original, np.int32),
        "to_original": np.linalg.inv(matrix)[:2].astype(np.float32),
    }


def blank(canvas: Size, truth: Batch) -> Batch:
    """Return a row of `canvas` size that only fills up a batch. `truth` is an empty ground truth."""
    return row(np.zeros((*canvas, 3), np.uint8), truth, 0, canvas, np.eye(3)) | {"example_mask": np.array(False)}


def stack(rows: list[Batch]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def check_batch(batch: Batch, truth: Collection[str]) -> None:
    """Raise UserError unless `batch` has the keys of every batch and the keys `truth`, as specified above."""
    wanted = {*ALWAYS, *truth}
    missing, unknown = sorted(wanted - batch.keys()), sorted(batch.keys() - wanted)
    if missing or unknown:
        raise UserError(f"batch: missing keys {missing}, unknown keys {unknown}; see input_pipeline/batch.py")
    sizes: dict[str, int] = {}
    for key, array in batch.items():
        shape, dtype = SPECIFICATION[key]
        expected = tuple(sizes.get(axis, axis) for axis in shape)
        fits = len(array.shape) == len(expected) and all(
            isinstance(want, str) or want == have for want, have in zip(expected, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            wanted = ", ".join(map(str, expected))
            raise UserError(
                f"batch[{key!r}] is {array.dtype} {array.shape}, expected {np.dtype(dtype)} ({wanted}); "
                "see input_pipeline/batch.py"
            )
        sizes |= {axis: size for axis, size in zip(shape, array.shape, strict=True) if isinstance(axis, str)}
