"""Boxes and masks as people annotate them: which boxes are none, and masks as text, in COCO's compressed run lengths."""

import numpy as np
from faster_coco_eval.core import mask as run_lengths

from errors import UserError
from input_pipeline.transforms import Size


def clean(boxes: np.ndarray, size: Size) -> tuple[np.ndarray, list[str]]:
    """Which `boxes` [N,4] (yxyx pixels) of an image are boxes: [N] bool, and what is wrong with each, "" where nothing is.

    A box that reaches beyond the image is one: it is there to be clipped.
    """
    top, left, bottom, right = boxes.T
    height, width = size
    wrong = {  # the first that holds is said
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


def encode_mask(segmentation: list | dict, size: Size) -> bytes:
    """A mask in any of COCO's three forms, as compressed run lengths; b"" where there is none.

    The forms are polygons [[x, y, x, y, ...], ...] in pixels, {"size": [h, w], "counts": [...]}, and the same with text for
    counts. Polygons of less than three points hold nothing. Raises UserError where it is none of them or of another size.
    """
    height, width = size
    try:
        if not isinstance(segmentation, dict):
            # Four numbers would be taken for a box.
            polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
            if not polygons:
                return b""
            encoded = run_lengths.merge(run_lengths.frPyObjects(polygons, height, width))
        else:
            if tuple(segmentation["size"]) != size:
                raise UserError(f"its mask is of {segmentation['size']} (height, width), the image of {list(size)}")
            encoded = segmentation
            if isinstance(segmentation["counts"], list):
                encoded = run_lengths.frPyObjects(segmentation, height, width)
            run_lengths.decode(encoded)  # says whether the lengths make up the image
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"its mask cannot be decoded ({str(error).splitlines()[0]})") from error
    counts = encoded["counts"]
    return counts if isinstance(counts, bytes) else counts.encode()


def decode_masks(texts: list[bytes], size: Size) -> np.ndarray:
    """The masks [N,H,W] bool of `encode_mask`'s texts."""
    if not texts:
        return np.zeros((0, *size), bool)
    decoded = run_lengths.decode([{"size": list(size), "counts": text} for text in texts])
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)).view(bool)
