"""One training picture of several: mosaic, mixup, and objects pasted from one onto another."""

from typing import NamedTuple

import numpy as np

from input_pipeline.batch import Size
from input_pipeline.objects import Objects, join, pick


class DrawnExample(NamedTuple):
    """A drawn image [H,W,3] uint8 with its objects; `matrix` [3,3] maps the points of the stored image to it.

    Of several examples, `original`, the stored image's size, and `matrix` are the first one's.
    """

    image: np.ndarray
    objects: Objects
    original: Size
    matrix: np.ndarray


def mosaic(pictures: list[DrawnExample]) -> DrawnExample:
    """Four pictures stitched, in reading order (Bochkovskiy, Wang and Liao 2020, section 3.3)."""
    first, second, third, fourth = (picture.image for picture in pictures)
    upper, lower = np.concatenate([first, second], 1), np.concatenate([third, fourth], 1)
    image = np.concatenate([upper, lower])
    down, right = first.shape[:2]
    corners = ((0, 0), (0, right), (down, 0), (down, right))
    moved = [_move(picture.objects, corner, image.shape[:2]) for picture, corner in zip(pictures, corners, strict=True)]
    return pictures[0]._replace(image=image, objects=join(moved))


def _move(objects: Objects, corner: tuple[int, int], size: Size) -> Objects:
    """The objects of a picture that lies at `corner` (row, column) of one of `size`."""
    moved = objects | {"boxes": objects["boxes"] + np.array(corner * 2)}
    if "masks" in objects:
        count, height, width = objects["masks"].shape
        moved["masks"] = np.zeros((count, *size), bool)
        moved["masks"][:, corner[0] : corner[0] + height, corner[1] : corner[1] + width] = objects["masks"]
    return moved


def mixup(picture: DrawnExample, other: DrawnExample, share: float) -> DrawnExample:
    """`share` of one picture and the rest of another, with the objects of both (Zhang et al. 2019, section 3.1)."""
    blend = share * picture.image.astype(np.float32) + (1 - share) * other.image.astype(np.float32)
    return picture._replace(image=np.rint(blend).astype(np.uint8), objects=join([picture.objects, other.objects]))


def copy_paste(picture: DrawnExample, donor: DrawnExample, chosen: np.ndarray, least: float) -> DrawnExample:
    """Those of the donor's objects that are `chosen` [N], no crowds, pasted by their masks (Ghiasi et al. 2021, section 3).

    An object below loses the pixels that are covered and gets the box of what is left of its mask. It is dropped where
    that is less than the share `least`, or nothing.
    """
    shown = donor.objects["masks"].any((1, 2))  # a small one may have missed every pixel's centre
    pasted = pick(donor.objects, chosen & shown & ~donor.objects["crowd"])
    cover = pasted["masks"].any(0)
    image = np.where(cover[..., None], donor.image, picture.image)
    return picture._replace(image=image, objects=join([occlude(picture.objects, cover, least), pasted]))


def occlude(objects: Objects, cover: np.ndarray, least: float) -> Objects:
    """The objects without their pixels under `cover` [H,W] bool."""
    masks = objects["masks"] & ~cover
    before, after = objects["masks"].sum((1, 2)), masks.sum((1, 2))
    changed = after < before
    boxes = objects["boxes"].copy()
    for i in np.flatnonzero(changed & (after > 0)):
        boxes[i] = bound(masks[i])
    left = ~changed | ((after > 0) & (after >= least * before))
    return pick(objects | {"boxes": boxes, "masks": masks}, left)


def bound(mask: np.ndarray) -> tuple[int, int, int, int]:
    """[H,W] bool, not empty -> the box (top, left, bottom, right) around its pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
