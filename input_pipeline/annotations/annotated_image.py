"""An image with its objects, as a file of annotations describes it."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Sequence

from errors import UserError
from files import LIMITS
from input_pipeline.batch import Size, count, refuse
from limits import CLASS_NAME, CLASSES
from wording import is_harmless

BOTH = "trainval"  # the split that VOC makes of two
SURROGATE = re.compile("[\ud800-\udfff]")  # what text from JSON or a file's name may hold, and UTF-8 may not


@dataclasses.dataclass(frozen=True, slots=True)
class Annotation:
    """One object. Coordinates are in pixels, or in fractions of the image as the format has it."""

    box: tuple[float, float, float, float]  # top, left, bottom, right
    label: int  # index of the class
    crowd: bool = False
    difficult: bool = False
    area: float | None = None  # None: that of the box
    segmentation: list | dict = ()  # of `masks.encode_mask`, () for none
    written: tuple[float, ...] = ()  # the numbers of which the box is only a part


@dataclasses.dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image and its objects. `size` is what the annotation gives, None if it gives none."""

    path: pathlib.Path
    name: str
    image_id: int
    size: Size | None
    objects: list[Annotation]


def check_letters(names: Sequence[str], where: pathlib.Path) -> None:
    """Raises UserError for too many names of classes, long ones, and those with control characters, whatever else they are."""
    if len(names) > CLASSES:
        raise UserError(f"{where} names {len(names):,} classes, and {CLASSES:,} are the most ({LIMITS})")
    long = [f"{name[:40]}..." for name in names if len(name) > CLASS_NAME]
    refuse(f"{where}: classes with names of more than {CLASS_NAME} letters", long, "; shorten them")
    odd = [ascii(name) for name in names if SURROGATE.search(name)]
    refuse(f"{where}: classes with names that are not valid UTF-8", odd, "; rename them")
    odd = [ascii(name) for name in names if not is_harmless(name)]
    refuse(f"{where}: classes with control characters in their names", odd, "; rename them")


def check_names(names: list[str], where: pathlib.Path) -> tuple[str, ...]:
    """The classes' names, spaces tidied. Raises UserError for none, an empty one, one twice, and for `check_letters`."""
    tidy = tuple(" ".join(name.split()) for name in names)
    check_letters(tidy, where)
    if not all(tidy) or not tidy:
        raise UserError(f"{where} names {'a class without a name' if tidy else 'no class'}; give each class its name")
    twice = sorted(name for name, times in collections.Counter(tidy).items() if times > 1)
    if twice:
        raise UserError(f"{where} names the class {twice[0]!r} more than once; give each class its own name")
    return tidy


def find_duplicates(objects: list[Annotation]) -> dict[int, int]:
    """Find the objects of an image that are exactly those of an earlier one, by their place: {place: that of the first}."""
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
    """Name the images that another split has, too, a line for each split.

    VOC's trainval is train and val by its nature: only its own examples are named, as those that a score on val has seen.
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
                f"{what} in {other}, too: do not train on one and score the other"
                for what in ("image is", "images are")
            ),
        )
    return lines


def name_duplicates(duplicates: list[str]) -> list[str]:
    """Name objects that were written twice, in a list of one line; an empty one where there are none."""
    return count(duplicates, "exact duplicate of an object is left out", "exact duplicates of objects are left out")
