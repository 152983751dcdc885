"""Datasets as random-access sources of decoded examples.

By what is asked for, an example is {"image": [H,W,3] uint8 RGB} and

label      {"label": [H,W] uint8 with 255 where no class is known}
instances  {"instances": [H,W] int32, each object's own number, 0 for none}
boxes      {"boxes": [N,4] float64 (top, left, bottom, right) in pixels, as annotated but for what lies beyond the image,
           "classes": [N] int32, "crowd": [N] bool, "difficult": [N] bool, "area": [N] float64, as annotated, else the
           box's}; of tfds's own sets as exact as tfds keeps them: boxes in float32, COCO's areas in whole pixels
masks      {"masks": [N] of masks.Mask} of the same objects
proposals  {"proposals": [P,4] float32 yxyx pixels, boxes in which an object may lie, the best first}; P may be 0

N may be 0, and no class of boxes is the background.

A split is named `train`; `train[:100]` and `train[10%:]` are parts of it, `train+validation` is both, and
`voc/2007:train+voc/2012:train` names datasets other than config.data.name, and so does `tfds:kitti:train`.
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
from input_pipeline.batch import Example, Size
from input_pipeline.datasets.registry import ANY, DATASETS, find_dataset
from input_pipeline.decoding import choose_white
from input_pipeline.objects import Objects
from input_pipeline.proposals import open_proposals

ASKED_BY = {  # what an example may be asked for: the fields that ask for it, and what else it takes
    "label": ("config.task.name", ""),
    "instances": ("config.data.weight_map", " and set config.data.folder.instances=folder or components"),
    "boxes": ("config.task.name", ""),
    "masks": ("config.task.name or config.data.augment.copy_paste", ""),
    "proposals": ("config.task.name", ""),
}
FOUND = ("proposals",)  # what is found in the images of any dataset, and kept beside it: no dataset provides it


class Source(Protocol):
    """The examples of one split, by index."""

    class_names: tuple[str, ...]
    fingerprint: str  # of what was indexed: changes when the data does
    dropped: tuple[str, ...]  # names of the files that were left out of the index
    absent: tuple[str, ...]  # classes without a single pixel in these examples; () if not counted
    bad_boxes: tuple[str, ...]  # boxes of the split that preparation left out
    category_ids: tuple[int, ...]  # the classes' numbers in the data's own files; 1 to C where it has none
    layout: str  # how the folder of the data was found to be laid out, and why; "" where it is of no folder
    remarks: tuple[str, ...]  # what of the split was passed over, or read in another way than expected: a line a kind
    peak: int  # the largest value in the split's images of 16 bits, 0 where there are none
    white: int  # the value of 16-bit images that is read as white: config.data.white_level, or what covers `peak`

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def name(self, index: int) -> str:
        """The example's file name, or the dataset's own id."""

    def size(self, index: int) -> Size:
        """(height, width) of the image, without decoding it."""

    def image_id(self, index: int) -> int:
        """The image's number in the data's own files; index + 1 where it has none."""


class ObjectSource(Source, Protocol):
    """A source of boxes, with or without masks."""

    clipped_boxes: int  # of the split, that preparation clipped to their image

    def objects(self, index: int) -> tuple[Size, Objects]:
        """The image's size, and the example without image and masks; no image is decoded."""

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        """Boxes that the example leaves out, and were not left out by preparation already."""


class ProposalSource(ObjectSource, Protocol):
    """A source of boxes with proposals."""

    def proposals(self, index: int) -> np.ndarray:
        """[P,4] float32, those of the example; no image is decoded."""


def open_source(data: ConfigDict, split: str, data_dir: str | None, needs: tuple[str, ...]) -> Source:
    """The split of the dataset that the config names, with examples of what is needed; prepared first where possible.

    Raises UserError in one line: an unknown dataset or split, a need that the dataset does not provide, data that is
    missing, files that cannot be used. Proposals that are not stored yet are found first, which can take hours.
    """
    place = expand_user(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    parts = split.split("+")
    opened = [_open_part(*read_part(data, part), place, needs) for part in parts]
    if len(opened) == 1:
        return opened[0]
    if not data.white_level and any(part.peak for part in opened):  # one for all of them
        data = data.copy_and_resolve_references()
        data.white_level = choose_white(max(part.peak for part in opened))
        opened = [_open_part(*read_part(data, part), place, needs) for part in parts]
    return Concatenation(parts, opened)


def read_part(data: ConfigDict, part: str) -> tuple[ConfigDict, str]:
    """config.data of the one dataset that `SPLIT` or `NAME:SPLIT` is of, and SPLIT."""
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
    """Raises UserError for the first need that is not among what the dataset `name`, or an example of it, provides."""
    for need in needs:
        if need not in provided:
            held = " and ".join(kind for kind in ASKED_BY if kind in provided)
            field, more = ASKED_BY[need]
            others = ", ".join(other for other in sorted(DATASETS) if need in find_dataset(other).provides)
            raise UserError(
                f"config.data.name={name!r} does not go with {field}, which needs {need}: {name} has {held}; "
                f"choose a dataset with {need} ({others}){more}"
            )


def parse_split(split: str) -> tuple[str, Callable[[int], range]]:
    """ "train[10:20]" or "train[:50%]" -> "train", and which of that many examples are meant. Raises UserError."""
    match = re.fullmatch(r"([\w-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match:
        raise UserError(f"config.data: {split!r} is not a split; write train, train[:100] or train[10%:]")

    def select(count: int) -> range:
        bounds = (
            None if bound is None else round(count * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)
            for bound in match.groups()[1:]
        )
        return range(count)[slice(*bounds)]

    return match[1], select


class Part:
    """The examples `indices` of a source, in their order: what an evaluation asks of a source, and no more."""

    def __init__(self, source: Any, indices: Sequence[int]):
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

    Raises UserError where their classes differ.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Any]):
        for name, part in zip(names, parts, strict=True):
            if part.class_names != parts[0].class_names:
                raise UserError(
                    f"config.data: {names[0]} and {name} differ in their classes ({_differences(parts[0], part)}); "
                    "only splits with the same classes in the same order can be one"
                )
        self.parts = parts
        self.class_names, self.category_ids = parts[0].class_names, parts[0].category_ids
        self.fingerprint = hashlib.sha256("+".join(part.fingerprint for part in parts).encode()).hexdigest()[:16]
        # What preparation left out is counted of whole splits: two slices of one count once.
        self._whole = {name.split("[")[0]: part for name, part in zip(names, parts, strict=True)}.values()
        self.dropped, self.bad_boxes = (
            tuple(itertools.chain.from_iterable(getattr(part, kind) for part in self._whole))
            for kind in ("dropped", "bad_boxes")
        )
        self.absent = tuple(name for name in parts[0].absent if all(name in part.absent for part in parts))
        self._ends = list(itertools.accumulate(map(len, parts)))

    @property
    def clipped_boxes(self) -> int:
        return sum(part.clipped_boxes for part in self._whole)

    @property
    def layout(self) -> str:
        return "; ".join(dict.fromkeys(part.layout for part in self.parts if part.layout))

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line for part in self._whole for line in part.remarks))

    @property
    def peak(self) -> int:
        return max(part.peak for part in self.parts)

    @property
    def white(self) -> int:
        return self.parts[0].white

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
        """As the part has it: two images of different parts may have the same."""
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
        """The part that holds an example, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


def _differences(first: Any, second: Any) -> str:
    for one, other in itertools.zip_longest(first.class_names, second.class_names, fillvalue="none"):
        if one != other:
            return f"{one!r} there, {other!r} here"
    return "none"
