"""An image with its objects, as a file of annotations describes it."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Sequence

from errors import UserError
from files import LIMITS
from input_pipeline.batch import count, refuse
from limits import CLASS_NAME, CLASSES
from wording import is_harmless

BOTH = "trainval"  # VOC's split that joins train and val
SURROGATE = re.compile("[\ud800-\udfff]")  # text from JSON or a file's name may hold them, UTF-8 may not


@dataclasses.dataclass(frozen=True, slots=True)
class Annotation:
    """One object. The format decides whether coordinates are in pixels or in fractions of the image."""

    box: tuple[float, float, float, float]  # top, left, bottom, right
    label: int  # index of the class
    crowd: bool = False
    difficult: bool = False
    area: float | None = None  # None: the area of the box
    segmentation: Sequence | dict = ()  # as `masks.encode_mask` reads it, () for none
    written: tuple[float, ...] = ()  # all numbers of the row, where the box is only a part of them


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image and its objects. `size` is the annotated height and width, None if there is none."""

    path: pathlib.Path
    name: str
    image_id: int
    size: tuple[float, float] | None
    objects: list[Annotation]


def check_letters(names: Sequence[str], where: pathlib.Path) -> None:
    """Raise UserError for too many class names, for long ones, and for those with control characters."""
    if len(names) > CLASSES:
        raise UserError(
            f"{where} names {len(names):,} classes, more than the limit of {CLASSES:,} ({LIMITS}); merge classes"
        )
    long = [f"{name[:40]}..." for name in names if len(name) > CLASS_NAME]
    refuse(f"{where}: classes with names of more than {CLASS_NAME} letters", long, "; shorten them")
    odd = [ascii(name) for name in names if SURROGATE.search(name)]
    refuse(f"{where}: classes with names that are not valid UTF-8", odd, "; rename them")
    odd = [ascii(name) for name in names if not is_harmless(name)]
    refuse(f"{where}: classes with control characters in their names", odd, "; rename them")


def check_names(names: list[str], where: pathlib.Path) -> tuple[str, ...]:
    """Return the class names with tidy spaces. Raise UserError for none, an empty or repeated one, and as `check_letters`."""
    tidy = tuple(" ".join(name.split()) for name in names)
    check_letters(tidy, where)
    if not all(tidy) or not tidy:
        raise UserError(f"{where} has {'a class without a name' if tidy else 'no classes'}; give each class a name")
    twice = sorted(name for name, times in collections.Counter(tidy).items() if times > 1)
    if twice:
        raise UserError(f"{where} names the class {twice[0]!r} more than once; give each class its own name")
    return tidy


def find_duplicates(objects: list[Annotation]) -> dict[int, int]:
    """Find the objects of an image that repeat an earlier one exactly. Return the place of the first for each."""
    seen: dict[tuple, list[int]] = {}
    again = {}
    for i, found in enumerate(objects):
        places = seen.setdefault((found.label, found.box, found.crowd, found.difficult, found.written), [])
        first = next((place for place in places if objects[place].segmentation == found.segmentation), None)
        if first is None:
            places.append(i)
        else:
            again[i] = first
    return again


def name_shared(splits: dict[str, list[AnnotatedImage]], split: str) -> list[str]:
    """Name the images that another split has, too, in one line for each split.

    VOC's trainval contains train and val by design, so only the images that val shares with trainval are named.
    """
    own = {image.path: image.name for image in splits[split]}
    lines = []
    for other, images in splits.items():
        if other in (split, BOTH) or (split, other) == (BOTH, "train"):
            continue
        shared = sorted(own[image.path] for image in images if image.path in own)
        lines += count(
            shared,
            *(
                f"{what} also in {other}, so do not train on one split and score the other"
                for what in ("image is", "images are")
            ),
        )
    return lines


def name_duplicates(duplicates: list[str]) -> list[str]:
    """Name objects that were written twice, in a list of one line. Without any, the list is empty."""
    return count(duplicates, "exact duplicate of an object is ignored", "exact duplicates of objects are ignored")
