"""Datasets as random-access sources of decoded examples.

An example is {"image": [H,W,3] uint8 RGB} and the ground truth that the caller needs:

label      {"label": [H,W] uint8 with 255 where no class is known}
instances  {"instances": [H,W] int32, each object's own number, 0 for none}
boxes      {"boxes": [N,4] float64 (top, left, bottom, right) in pixels, as annotated but for what lies beyond the image,
           "classes": [N] int32, "crowd": [N] bool, "difficult": [N] bool, "area": [N] float64, as annotated, else the
           box's}; tfds's own sets have the precision of tfds: boxes in float32, COCO's areas in whole pixels
masks      {"masks": [N] of masks.Mask} of the same objects
proposals  {"proposals": [P,4] float32 yxyx pixels, boxes that may hold an object, the best first}; P may be 0

N may be 0. Boxes have no background class.

A split has a name, such as `train`. `train[:100]` and `train[10%:]` are parts of it, and `train+validation` is two splits.
`voc/2007:train+voc/2012:train` and `tfds:kitti:train` name datasets other than config.data.name.
"""

import bisect
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from files import expand_user
from input_pipeline.batch import Example, Examples, Size
from input_pipeline.datasets.registry import ANY, DATASETS, find_dataset
from input_pipeline.decoding import choose_white
from input_pipeline.objects import Objects
from input_pipeline.proposals import open_proposals

ASKED_BY = {  # keys of an example: the fields that need it, and a further remedy
    "label": ("config.task.name", ""),
    "instances": ("config.data.weight_map", " and set config.data.folder.instances=folder or components"),
    "boxes": ("config.task.name", ""),
    "masks": ("config.task.name or config.data.augment.copy_paste", ""),
    "proposals": ("config.task.name", ""),
}
FOUND = ("proposals",)  # found in the images of any dataset and stored next to it: no dataset provides them


class Source(Examples, Protocol):
    """The examples of one split, and the facts about their data."""

    class_names: tuple[str, ...]
    fingerprint: str  # hash of the indexed data: it changes when the data does
    dropped: tuple[str, ...]  # names of the files that were left out of the index
    absent: tuple[str, ...]  # classes without a single pixel in these examples; () if not counted
    bad_boxes: tuple[str, ...]  # boxes of the split that preparation left out
    category_ids: tuple[int, ...]  # the classes' numbers in the data's own files; 1 to C where it has none
    layout: str  # the recognised layout of the data's folder, and the reason; "" where the data has no folder
    remarks: tuple[str, ...]  # files that were skipped or read in an unexpected way: one line per kind
    peak: int  # the largest value in the split's 16-bit images, 0 where there are none
    white: int  # of 16-bit images, the value that is read as white: config.data.white_level, or one that covers `peak`

    def image_id(self, index: int) -> int:
        """Return the image's number in the data's own files, or index + 1 where it has none."""
        ...


class ObjectSource(Source, Protocol):
    """A source of boxes, with or without masks."""

    clipped_boxes: int  # number of the split's boxes that preparation clipped to their image

    def objects(self, index: int) -> tuple[Size, Objects]:
        """Return the image's size, and the example without image and masks. No image is decoded."""
        ...

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        """Return the boxes that the example leaves out, except those that preparation already left out."""
        ...


class ProposalSource(ObjectSource, Protocol):
    """A source of boxes with proposals."""

    def proposals(self, index: int) -> np.ndarray:
        """Return the proposals of the example, [P,4] float32. No image is decoded."""
        ...


def open_source(data: ConfigDict, split: str, data_dir: str | None, needs: tuple[str, ...]) -> Source:
    """Return the split of the config's dataset, with examples that hold `needs`. Prepare it first where possible.

    Raise UserError for an unknown dataset or split, a need that the dataset does not provide, missing data, and unusable
    files. Proposals that are not stored yet are found first, which can take hours.
    """
    place = expand_user(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    parts = split.split("+")
    opened = [_open_part(*read_part(data, part), place, needs) for part in parts]
    if len(opened) == 1:
        return opened[0]
    if not data.white_level and any(part.peak for part in opened):  # all parts share one level
        data = data.copy_and_resolve_references()
        data.white_level = choose_white(max(part.peak for part in opened))
        opened = [_open_part(*read_part(data, part), place, needs) for part in parts]
    return Concatenation(parts, opened)


def read_part(data: ConfigDict, part: str) -> tuple[ConfigDict, str]:
    """Return config.data for the one dataset of `SPLIT` or `NAME:SPLIT`, and SPLIT."""
    named = re.fullmatch(rf"((?:{ANY})?[\w./-]+(?::\d+\.\d+\.\d+)?):(\w.*)", part)
    if not named:
        return data, part
    data = data.copy_and_resolve_references()
    data.name = named[1]
    return data, named[2]


def _open_part(data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]) -> Source:
    dataset = find_dataset(data.name)
    stored = tuple(need for need in needs if need not in FOUND)
    check_provided(data.name, stored, dataset.provides)
    source = dataset.open(data, split, place, stored)
    return open_proposals(source, data, split, place) if "proposals" in needs else source


def check_provided(name: str, needs: Collection[str], provided: Collection[str]) -> None:
    """Raise UserError for the first need that the dataset `name`, or an example of it, does not provide."""
    for need in needs:
        if need not in provided:
            held = " and ".join(kind for kind in ASKED_BY if kind in provided)
            field, more = ASKED_BY[need]
            others = ", ".join(other for other in sorted(DATASETS) if need in find_dataset(other).provides)
            raise UserError(
                f"{field} needs {need}, but config.data.name={name!r} has only {held}; "
                f"choose a dataset with {need} ({others}){more}"
            )


def parse_split(split: str) -> tuple[str, Callable[[int], range]]:
    """Split `train[10:20]` or `train[:50%]` into the name and a function from a number of examples to the chosen range.

    Raise UserError for anything else.
    """
    match = re.fullmatch(r"([\w-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match:
        raise UserError(f"config.data: {split!r} is not a split; write it as train, train[:100] or train[10%:]")

    def select(count: int) -> range:
        bounds = (
            None if bound is None else round(count * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)
            for bound in match.groups()[1:]
        )
        return range(count)[slice(*bounds)]

    return match[1], select


class Part:
    """The examples `indices` of others, in their order."""

    def __init__(self, source: Examples, indices: Sequence[int]):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]

    def size(self, index: int) -> Size:
        return self._source.size(self._indices[index])

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])


class Concatenation:
    """The examples of `parts`, sources of the splits `names`, one after the other. Its attributes cover all of them.

    The constructor raises UserError where the classes of the parts differ.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Any]):
        for name, part in zip(names, parts, strict=True):
            if part.class_names != parts[0].class_names:
                raise UserError(
                    f"config.data: {names[0]} and {name} have different classes ({_differences(parts[0], part)}); "
                    "join only splits with the same classes in the same order"
                )
        self.parts = parts
        self.class_names, self.category_ids = parts[0].class_names, parts[0].category_ids
        self.fingerprint = hashlib.sha256("+".join(part.fingerprint for part in parts).encode()).hexdigest()[:16]
        # Files and boxes that preparation left out are counted for whole splits: two slices of one split count once.
        self._whole = {name.split("[")[0]: part for name, part in zip(names, parts, strict=True)}.values()
        self.dropped, self.bad_boxes = (
            tuple(itertools.chain.from_iterable(getattr(part, kind) for part in self._whole))
            for kind in ("dropped", "bad_boxes")
        )
        self.absent = tuple(name for name in parts[0].absent if all(name in part.absent for part in parts))
        self._ends = list(itertools.accumulate(map(len, parts)))
        self.layout = "; ".join(dict.fromkeys(part.layout for part in parts if part.layout))
        self.remarks = tuple(dict.fromkeys(line for part in self._whole for line in part.remarks))
        self.peak, self.white = max(part.peak for part in parts), parts[0].white

    @property
    def clipped_boxes(self) -> int:
        return sum(part.clipped_boxes for part in self._whole)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int):
        part, place = self._find(index)
        return part[place]

    def name(self, index: int) -> str:
        part, place = self._find(index)
        return part.name(place)

    def size(self, index: int) -> tuple[int, int]:
        part, place = self._find(index)
        return part.size(place)

    def image_id(self, index: int) -> int:
        """Return the number that the part gives the image. Images of different parts may have the same."""
        part, place = self._find(index)
        return part.image_id(place)

    def objects(self, index: int):
        part, place = self._find(index)
        return part.objects(place)

    def proposals(self, index: int) -> np.ndarray:
        part, place = self._find(index)
        return part.proposals(place)

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        part, place = self._find(index)
        return part.find_bad_boxes(place)

    def _find(self, index: int) -> tuple[Any, int]:
        """Return the part that holds an example, and the example's index there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


def _differences(first: Any, second: Any) -> str:
    for one, other in itertools.zip_longest(first.class_names, second.class_names, fillvalue="none"):
        if one != other:
            return f"{one!r} in the first, {other!r} in the second"
    return "none"
