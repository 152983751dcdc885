"""The Batch: what the input pipeline hands to a training or evaluation step. A plain dict of numpy arrays.

key             shape        dtype    meaning
image           [B, H, W, 3] uint8    RGB, not normalised: that happens on the device, after a quarter of the transfer
label           [B, H, W]    uint8    class of each pixel, IGNORE (255) where there is none or none is known
image_id        [B]          int32    index of the example in its source: source[image_id], source.name(image_id)
example_mask    [B]          bool     False for the rows that fill up the last evaluation batch; they count nowhere
original_size   [B, 2]       int32    (height, width) of the image as stored
to_original     [B, 2, 3]    float32  maps a point of `image` to the same point of the stored image

Points are (x, y) in pixels with x to the right, measured from the image's top left *corner*: the pixel in row r and
column c covers [c, c+1] x [r, r+1] and has its centre at (c + 0.5, r + 0.5). A resize is then a pure scaling and a flip
is x -> W - x, with no half-pixel corrections. Elastic deformation is not part of `to_original`.

B is what one process feeds: the global batch divided by the number of processes. The rows of a batch that are padding
hold zeros in `image`, IGNORE in `label`, 0 in `image_id`, the canvas in `original_size` and the identity in `to_original`.
"""

import numpy as np

IGNORE = 255

SPECIFICATION = {  # key: (shape, dtype); equal letters are equal sizes
    "image": (("B", "H", "W", 3), np.uint8),
    "label": (("B", "H", "W"), np.uint8),
    "image_id": (("B",), np.int32),
    "example_mask": (("B",), np.bool_),
    "original_size": (("B", 2), np.int32),
    "to_original": (("B", 2, 3), np.float32),
}


class DataError(ValueError):
    """Data or a data field that cannot be used. The message is one line: what is wrong, where, and what to do."""


def check_batch(batch: dict[str, np.ndarray]) -> None:
    """Raises DataError unless `batch` holds exactly the keys above, with their shapes and dtypes."""
    if batch.keys() != SPECIFICATION.keys():
        missing, unknown = sorted(SPECIFICATION.keys() - batch.keys()), sorted(batch.keys() - SPECIFICATION.keys())
        raise DataError(f"batch: missing keys {missing}, unknown keys {unknown}; see input_pipeline/batch.py")
    sizes: dict[str, int] = {}
    for key, (shape, dtype) in SPECIFICATION.items():
        array = batch[key]
        expected = tuple(sizes.get(axis, axis) for axis in shape)
        fits = len(array.shape) == len(expected) and all(
            isinstance(want, str) or want == have for want, have in zip(expected, array.shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            wanted = ", ".join(map(str, expected))
            raise DataError(
                f"batch[{key!r}] is {array.dtype} {array.shape}, expected {np.dtype(dtype)} ({wanted}); "
                "see input_pipeline/batch.py"
            )
        sizes |= {axis: size for axis, size in zip(shape, array.shape, strict=True) if isinstance(axis, str)}
