"""Datasets as random-access sources of decoded examples.

By config.data.truth an example is {"image": [H,W,3] uint8 RGB} and

label  {"label": [H,W] uint8 with 255 where no class is known}; image_mask adds "instances" [H,W] int32, 0 for none, where
       the config asks for them
boxes  {"boxes": [N,4] float64 (top, left, bottom, right) in pixels, as annotated but for what lies beyond the image,
       "classes": [N] int32, "crowd": [N] bool, "difficult": [N] bool, "area": [N] float64, as annotated, else the box's};
       of tfds's own sets as exact as tfds keeps them: boxes in float32, COCO's areas in whole pixels
masks  the same with {"masks": [N,H,W] bool}

N may be 0, and no class is the background.
"""

import os
import pathlib
import re
from typing import Protocol

from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.objects import Objects
from input_pipeline.prepared import ADAPTERS, Example, PreparedLabels, PreparedObjects
from input_pipeline.splits import Union, parse_split
from input_pipeline.transforms import Size


class Source(Protocol):
    """The examples of one split, by index."""

    class_names: tuple[str, ...]
    fingerprint: str  # of what was indexed: changes when the data does
    dropped: tuple[str, ...]  # names of the files that were left out of the index
    absent: tuple[str, ...]  # classes without a single pixel in these examples; () where nobody counted
    bad_boxes: tuple[str, ...]  # boxes of the split that preparation left out
    category_ids: tuple[int, ...]  # the classes' numbers in the data's own files; 1 to C where it has none

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


TRUTHS = {name: adapter.truths for name, adapter in ADAPTERS.items()} | {"image_mask": ("label",)}


def open_source(data: ConfigDict, split: str, data_dir: str | None) -> Source:
    """The split of the dataset that the config names, prepared first where that is possible; `train[:8]` takes a part.

    `train+validation` is both, and `voc/2007:train+voc/2012:train` names datasets beside config.data.name. Raises UserError
    in one line: an unknown dataset or split, a truth that it has not, data that is missing, files that cannot be used.
    """
    check_sizes(data)
    place = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    parts = split.split("+")
    opened = [_open_part(data, part, place) for part in parts]
    return opened[0] if len(opened) == 1 else Union(parts, opened)


def _open_part(data: ConfigDict, split: str, place: pathlib.Path) -> Source:
    """One dataset's split, `SPLIT` or `NAME:SPLIT`."""
    named = re.fullmatch(r"([\w/]+):(\w.*)", split)
    if named:
        data, split = data.copy_and_resolve_references(), named[2]
        data.name = named[1]
    _check_truth(data)
    if data.name == "image_mask":
        from input_pipeline.datasets.image_mask import ImageMask

        return ImageMask(data.folder, *parse_split(split), cache=place / "image_mask")
    return (PreparedLabels if data.truth == "label" else PreparedObjects)(data, split, place)


def _check_truth(data: ConfigDict) -> None:
    """Raises UserError unless the dataset is known and has the truth that is asked of it."""
    if data.name not in TRUTHS:
        raise UserError(f"config.data.name={data.name!r} is unknown; choose one of {', '.join(sorted(TRUTHS))}")
    truths = TRUTHS[data.name]
    if data.truth not in truths:
        others = sorted(name for name, known in TRUTHS.items() if data.truth in known)
        remedy = f"choose that, or a dataset with {data.truth} ({', '.join(others)})" if others else "choose that"
        raise UserError(f"config.data.truth={data.truth!r}: {data.name} has {' and '.join(truths)}; {remedy}")


def check_sizes(data: ConfigDict) -> None:
    """Raises UserError where config.data.margin leaves nothing of config.data.image_size or of a canvas."""
    for name, size in (("image_size", data.image_size), *(("canvases", canvas) for canvas in data.canvases)):
        if 2 * data.margin >= min(size):
            raise UserError(f"config.data.margin={data.margin} leaves nothing of config.data.{name}={size}")
