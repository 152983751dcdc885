"""One training picture made of several, by mosaic, mixup or objects pasted from one onto another."""

import dataclasses
from typing import NamedTuple

import numpy as np

from input_pipeline.augment import geometry
from input_pipeline.batch import Size
from input_pipeline.masks import Mask, bound, move, paint, touch
from input_pipeline.objects import Objects, join, pick


class DrawnExample(NamedTuple):
    """A drawn image [H,W,3] uint8 with its objects. `matrix` [3,3] maps the points of the stored image to it.

    With several examples, `original` (the stored image's size) and `matrix` belong to the first.
    """

    image: np.ndarray
    objects: Objects
    original: Size
    matrix: np.ndarray


def mosaic(pictures: list[DrawnExample]) -> DrawnExample:
    """Join four pictures, in reading order (Bochkovskiy, Wang and Liao 2020, section 3.3)."""
    first, second, third, fourth = (picture.image for picture in pictures)
    upper, lower = np.concatenate([first, second], 1), np.concatenate([third, fourth], 1)
    image = np.concatenate([upper, lower])
    down, right = first.shape[:2]
    corners = ((0, 0), (0, right), (down, 0), (down, right))
    moved = [_move(picture.objects, corner) for picture, corner in zip(pictures, corners, strict=True)]
    return pictures[0]._replace(image=image, objects=join(moved))


def _move(objects: Objects, corner: tuple[int, int]) -> Objects:
    """Move the objects of a picture that lies at `corner` (row, column) of another one."""
    moved = objects | {"boxes": objects["boxes"] + np.array(corner * 2)}
    if "masks" in objects:
        moved["masks"] = move(objects["masks"], geometry.translation(corner[1], corner[0]))
    return moved


def mixup(picture: DrawnExample, other: DrawnExample, share: float) -> DrawnExample:
    """Blend `share` of one picture with the rest of another, and join their objects (Zhang et al. 2019, section 3.1)."""
    blend = share * picture.image.astype(np.float32) + (1 - share) * other.image.astype(np.float32)
    return picture._replace(image=np.rint(blend).astype(np.uint8), objects=join([picture.objects, other.objects]))


def copy_paste(picture: DrawnExample, donor: DrawnExample, chosen: np.ndarray, least: float) -> DrawnExample:
    """Paste the donor's `chosen` [N] objects by their masks, without crowds (Ghiasi et al. 2021, section 3).

    An object below loses its covered pixels and gets the box of the rest of its mask. It is dropped if less than the share
    `least` is left, or nothing.
    """
    size = picture.image.shape[:2]
    cover, pasted = np.zeros(size, bool), np.zeros(len(chosen), bool)
    for i in np.flatnonzero(chosen & ~donor.objects["crowd"]):
        part = touch(donor.objects["boxes"][i], size)
        seen = paint(donor.objects["masks"][i], part)
        cover[part] |= seen
        pasted[i] = seen.any()  # a small one may have missed every pixel's centre
    image = np.where(cover[..., None], donor.image, picture.image)
    below = occlude(picture.objects, cover, least)
    return picture._replace(image=image, objects=join([below, pick(donor.objects, pasted)]))


def occlude(objects: Objects, cover: np.ndarray, least: float) -> Objects:
    """Return the objects without their pixels under `cover` [H,W] bool."""
    boxes, masks, left = objects["boxes"].copy(), objects["masks"].copy(), np.ones(len(objects["boxes"]), bool)
    above = Mask(cover)
    for i, mask in enumerate(masks):
        part = touch(boxes[i], cover.shape)
        if not cover[part].any():
            continue
        masks[i] = dataclasses.replace(mask, covers=(*mask.covers, above))
        before = paint(mask, part)
        after = before & ~cover[part]
        total, rest = before.sum(), after.sum()
        left[i] = rest == total or (rest > 0 and rest >= least * total)
        if left[i] and rest < total:
            boxes[i] = np.array(bound(after)) + (part[0].start, part[1].start) * 2
    return pick(objects | {"boxes": boxes, "masks": masks}, left)
