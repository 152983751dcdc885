"""Id maps, images in which each pixel holds the number of its object, or 0. Reads them and lists their objects."""

import pathlib

import cv2
import numpy as np

from errors import UserError
from input_pipeline.batch import IGNORE
from input_pipeline.decoding import decode_mask, read_image
from input_pipeline.masks import find_regions
from input_pipeline.objects import Objects


def read_grey(path: pathlib.Path, remedy: str, upright: bool = True) -> np.ndarray:
    """Read a mask's values [H,W], the palette index or grey (also grey stored as RGB). Raise UserError for colours."""
    values = decode_mask(read_image(path), str(path), upright=upright)
    if values.ndim == 2:
        return values
    if np.ptp(values, axis=-1).any():
        raise UserError(f"{path} is a colour mask; {remedy}")
    return values[..., 0]


def read_ids(path: pathlib.Path, upright: bool = True) -> np.ndarray:
    """Read a file's ids [H,W] int32. Raise UserError for colours and for negative ids."""
    instances = read_grey(path, "store each object's id as grey, of 8 or 16 bits", upright).astype(np.int32)
    if is_jpeg(path):
        raise UserError(f"{path} is a JPEG, which changes ids; export it from its source as PNG")
    if instances.min() < 0:
        raise UserError(
            f"{path} holds the id {instances.min()}; number the objects from 1, and use 0 for the background"
        )
    return instances


def is_jpeg(path: pathlib.Path) -> bool:
    """Return whether a file is a JPEG, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == b"\xff\xd8"


def find_components(label: np.ndarray) -> np.ndarray:
    """Number the 4-connected regions of each class in a label [H,W] uint8, as ids [H,W] int32.

    Class 0 and ignored pixels get the id 0.
    """
    instances = np.zeros(label.shape, np.int32)
    count = 0
    for value in np.setdiff1d(label, (0, IGNORE)):
        number, regions = cv2.connectedComponents((label == value).view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
        instances += np.where(regions > 0, regions + count, 0)
        count += number - 1  # the first is the area around them
    return instances


def list_objects(ids: np.ndarray, label: np.ndarray) -> np.ndarray:
    """List the objects of an id map as [N,7] int64, with id, box (top, left, bottom, right), number of pixels and class.

    The class is the most frequent one of its pixels in `label` [H,W] uint8, without 0 and ignored pixels; 0 if none is left.
    """
    numbers, boxes, counts = find_regions(ids)
    place = np.searchsorted(numbers, ids[ids > 0])
    votes = np.bincount(place * (IGNORE + 1) + label[ids > 0], minlength=len(numbers) * (IGNORE + 1))
    votes = votes.reshape(-1, IGNORE + 1)
    votes[:, [0, IGNORE]] = 0
    return np.column_stack([numbers, boxes, counts, votes.argmax(1)]).astype(np.int64)


def make_objects(listed: np.ndarray) -> Objects:
    """Make objects without masks from rows of `list_objects` that have a class. The area is the number of pixels."""
    count = len(listed)
    return {
        "boxes": listed[:, 1:5].astype(np.float64),
        "classes": (listed[:, 6] - 1).astype(np.int32),
        "crowd": np.zeros(count, bool),
        "difficult": np.zeros(count, bool),
        "area": listed[:, 5].astype(np.float64),
    }
