"""Id maps: images whose values are objects' own numbers, 0 where there is no object; and what they say of the objects."""

import pathlib

import cv2
import numpy as np

from errors import UserError
from input_pipeline.batch import IGNORE
from input_pipeline.decoding import decode_mask
from input_pipeline.masks import find_regions
from input_pipeline.objects import Objects


def read_grey(path: pathlib.Path, remedy: str) -> np.ndarray:
    """A mask's values [H,W]: palette index or grey, also where that is stored as RGB. Raises UserError for colours."""
    values = decode_mask(path.read_bytes(), str(path))
    if values.ndim == 2:
        return values
    if np.ptp(values, axis=-1).any():
        raise UserError(f"{path} is a colour mask; {remedy}")
    return values[..., 0]


def read_ids(path: pathlib.Path) -> np.ndarray:
    """A file's ids [H,W] int32. Raises UserError for colours and for ids below 0."""
    instances = read_grey(path, "store each object's id as grey, of 8 or 16 bits").astype(np.int32)
    if instances.min() < 0:
        raise UserError(f"{path} holds the id {instances.min()}; ids are 1 and more, and 0 where there is no object")
    return instances


def find_components(label: np.ndarray) -> np.ndarray:
    """Classes [H,W] uint8 -> ids [H,W] int32 of the regions of one class that hang together by their pixels' sides.

    Class 0 and ignored pixels belong to none (0).
    """
    instances = np.zeros(label.shape, np.int32)
    count = 0
    for value in np.setdiff1d(label, (0, IGNORE)):
        number, regions = cv2.connectedComponents((label == value).view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
        instances += np.where(regions > 0, regions + count, 0)
        count += number - 1  # the first is what lies around them
    return instances


def list_objects(ids: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Objects [N,7] int64: each one's id, the top, left, bottom and right of the box around its pixels, how many, and class.

    The class is the commonest of its pixels in `label` [H,W] uint8 but 0 and ignored ones; 0 where it has no other.
    """
    numbers, boxes, counts = find_regions(ids)
    place = np.searchsorted(numbers, ids[ids > 0])
    votes = np.bincount(place * (IGNORE + 1) + label[ids > 0], minlength=len(numbers) * (IGNORE + 1))
    votes = votes.reshape(-1, IGNORE + 1)
    votes[:, [0, IGNORE]] = 0
    return np.column_stack([numbers, boxes, counts, votes.argmax(1)]).astype(np.int64)


def make_objects(listed: np.ndarray) -> Objects:
    """The objects, without masks, of what `list_objects` says of objects with a class. Their area is their pixels'."""
    count = len(listed)
    return {
        "boxes": listed[:, 1:5].astype(np.float64),
        "classes": (listed[:, 6] - 1).astype(np.int32),
        "crowd": np.zeros(count, bool),
        "difficult": np.zeros(count, bool),
        "area": listed[:, 5].astype(np.float64),
    }
