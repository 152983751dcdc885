"""What `coco_folder`, `voc_folder` and `yolo_folder` share: a user's images and annotations, prepared as one tfds dataset.

A subclass reads the annotations, this module the images: each is decoded once, to find what is broken, and stored byte for
byte. Boxes are stored in pixels as float64, so that nothing is rounded, without those that are none (`annotations.clean`); what
was left out or clipped is named in the prepared set's metadata, split by split.
"""

import concurrent.futures
import dataclasses
import hashlib
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.batch import refuse
from input_pipeline.datasets.annotations import clean, describe, encode_mask
from input_pipeline.decoding import SUFFIXES, decode_image, refuse_unreadable
from input_pipeline.objects import area, clip
from input_pipeline.transforms import Size

CHUNK = 64  # images handed to the threads at a time: what waits to be written stays small
FARTHEST = 1e6  # pixels: a coordinate of a polygon beyond it is a mistake that would take gigabytes to draw
SURROGATE = re.compile("[\ud800-\udfff]")  # what text from JSON or a file's name may hold, and UTF-8 may not


@dataclasses.dataclass(frozen=True, slots=True)
class Annotation:
    """One object. Coordinates are in pixels, or in fractions of the image where the builder is `relative`."""

    box: tuple[float, float, float, float]  # top, left, bottom, right
    label: int  # index of the class
    crowd: bool = False
    difficult: bool = False
    area: float | None = None  # the box's where nobody gave it
    segmentation: list | dict = ()  # of `annotations.encode_mask`, () for none


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An image and its objects. `size` is what the annotation says, None where it says nothing."""

    path: pathlib.Path
    name: str
    image_id: int
    size: Size | None
    objects: list[Annotation]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the annotations of a folder say. `category_ids` are the classes' own numbers, in the order of the names."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    splits: dict[str, list[Picture]]


@dataclasses.dataclass
class Findings:
    """What became of a split's files and boxes. Kept as the prepared set's metadata."""

    dropped: list[str] = dataclasses.field(default_factory=list)  # images that cannot be decoded
    bad_boxes: list[str] = dataclasses.field(default_factory=list)  # left out
    clipped_boxes: int = 0  # that reached beyond their image
    unmasked: int = 0  # objects without a mask
    first_unmasked: str = ""  # the file that holds one
    content: str = ""  # a hash of images and annotations


class DetectionFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The tfds builder of the folder config.data.folder; its config is named by what lies there.

    A subclass says where the files are (`list_files`) and what the annotations mean (`read`). Raises UserError in one line:
    annotations that cannot be used when it is made, images that cannot be used in preparation.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    relative = False  # coordinates are fractions of the image

    def __init__(self, *, folder: ConfigDict, **options):
        self._folder = folder
        self._contents = self.read(folder)
        odd = [split for split in self._contents.splits if not re.fullmatch(r"[\w-]+", split)]
        refuse(f"{folder.root}: splits with names of more than letters, digits, _ and -", odd, "; rename them")
        if "all" in self._contents.splits:
            raise UserError(f"{folder.root} has a split named 'all', which tfds takes for all of the splits; rename it")
        names = (picture.name for pictures in self._contents.splits.values() for picture in pictures)
        odd = [ascii(name) for name in names if SURROGATE.search(name)]
        refuse(f"{folder.root}: images with names that are no UTF-8", odd, "; rename them")
        super().__init__(config=tfds.core.BuilderConfig(name=self.identify(folder)), **options)

    @staticmethod
    def find_place(folder: ConfigDict) -> pathlib.Path:
        """The folder that all of it lies in. Raises UserError where it is none."""
        root = pathlib.Path(folder.root).expanduser()
        if not root.is_dir():
            raise UserError(
                f"config.data.folder.root={folder.root!r} is no folder; give the one that holds the dataset"
            )
        return root

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        """All files that the prepared set depends on."""
        raise NotImplementedError

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        """What the annotations say. Raises UserError."""
        raise NotImplementedError

    @classmethod
    def identify(cls, folder: ConfigDict) -> str:
        """A name that changes with the names, sizes and times of the files; the same wherever the folder lies."""
        place = cls.find_place(folder)
        # A link to nowhere is no file: whoever needs it says that it is missing.
        status = [(path.relative_to(place), path.stat()) for path in cls.list_files(folder) if path.exists()]
        content = [(path.as_posix(), entry.st_size, entry.st_mtime_ns) for path, entry in status]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def _info(self) -> tfds.core.DatasetInfo:
        # As bytes, because records hold no numbers beyond float32 otherwise.
        exact = {"dtype": np.float64, "encoding": "bytes"}
        features = {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),  # or whatever the file is
            "image/id": np.int64,
            "image/size": tfds.features.Tensor(shape=(2,), dtype=np.int64),  # height, width
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.Tensor(shape=(4,), **exact),  # yxyx, pixels
                    "label": tfds.features.ClassLabel(names=self._contents.class_names),
                    "area": tfds.features.Tensor(shape=(), **exact),  # pixels
                    "is_crowd": np.bool_,
                    "is_difficult": np.bool_,
                    "mask": tfds.features.Text(),  # COCO's compressed run lengths, or nothing
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images of a folder, with the boxes and masks of the objects in them.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(category_ids=self._contents.category_ids, findings={}),
            disable_shuffling=True,  # examples stay in the order of the annotations
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self._contents.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        findings, digest = Findings(), hashlib.sha256(repr(self._contents.class_names).encode())
        pictures = self._contents.splits[split]
        wrong, unreadable, count = [], [], 0
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for first in range(0, len(pictures), CHUNK):
                part = pictures[first : first + CHUNK]
                for picture, (data, size, problem) in zip(part, pool.map(load, part), strict=True):
                    if size is None:
                        findings.dropped.append(picture.name)
                        unreadable.append(problem)
                        continue
                    if problem:
                        wrong.append(problem)
                        continue
                    try:
                        objects = self._convert(picture, size, findings)
                    except UserError as error:
                        wrong.append(str(error))
                        continue
                    digest.update(repr((picture.name, size, hashlib.sha256(data).digest(), objects)).encode())
                    # An error below ends the preparation: nothing more needs to be written.
                    if not wrong:
                        yield (
                            count,
                            {
                                "file_name": picture.name,
                                "image": data,
                                "image/id": picture.image_id,
                                "image/size": size,
                                "objects": objects,
                            },
                        )
                        count += 1
        refuse(f"{split}: images that do not fit their annotations", wrong)
        if not self._folder.drop_unreadable:
            refuse_unreadable(split, unreadable)
        if not count:
            raise UserError(f"{split}: no image can be decoded ({unreadable[0]})")
        findings.content = digest.hexdigest()[:16]
        self.info.metadata["findings"][split] = dataclasses.asdict(findings)

    def _convert(self, picture: Picture, size: Size, findings: Findings) -> list[dict[str, Any]]:
        """The objects of a picture as they are stored; the rest goes into `findings`. Raises UserError for a bad mask."""
        height, width = size
        boxes = np.array([found.box for found in picture.objects], np.float64).reshape(-1, 4)
        if self.relative:
            boxes = boxes * np.tile(size, 2)
        keep, reasons = clean(boxes, size)
        clipped = clip(boxes, (0, 0, *size))
        findings.clipped_boxes += int((clipped != boxes).any(axis=1)[keep].sum())
        converted = []
        for i, found in enumerate(picture.objects):
            if not keep[i]:
                class_name = self._contents.class_names[found.label]
                findings.bad_boxes.append(describe(picture.name, i + 1, class_name, reasons[i]))
                continue
            segmentation = found.segmentation
            if self.relative:
                segmentation = [
                    (np.reshape(polygon, (-1, 2)) * (width, height)).ravel().tolist() for polygon in segmentation
                ]
            try:
                mask = encode_mask(segmentation, size)
            except UserError as error:
                raise UserError(f"{picture.path}: object {i + 1}: {error}") from error
            if not mask:
                findings.unmasked += 1
                findings.first_unmasked = findings.first_unmasked or picture.name
            converted.append(
                {
                    "bbox": clipped[i].tolist(),
                    "label": found.label,
                    "area": float(area(clipped[i]) if found.area is None else found.area),
                    "is_crowd": found.crowd,
                    "is_difficult": found.difficult,
                    "mask": mask,
                }
            )
        return converted


def load(picture: Picture) -> tuple[bytes, Size | None, str]:
    """An image file's bytes, its size and what is wrong with it; there is no size where it cannot be decoded."""
    data = picture.path.read_bytes()
    try:
        height, width = decode_image(data, str(picture.path)).shape[:2]
    except UserError as error:
        return data, None, str(error)
    if picture.size not in (None, (height, width)):
        said = f"{picture.size[0]:g}x{picture.size[1]:g}"
        problem = (
            f"{picture.path} is {height}x{width} (height x width), its annotation says {said}; correct one of them"
        )
        return data, (height, width), problem
    return data, (height, width), ""


def walk(folder: pathlib.Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[pathlib.Path]:
    """All files below a folder whose names end so, sorted."""
    return sorted(
        pathlib.Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(suffixes) and name[0] != "."
    )


def check_names(names: list[str], where: pathlib.Path) -> tuple[str, ...]:
    """The classes' names, spaces tidied. Raises UserError for none, an empty one, one twice, one that is no UTF-8."""
    tidy = tuple(" ".join(name.split()) for name in names)
    if not all(tidy) or not tidy:
        raise UserError(f"{where} names {'a class without a name' if tidy else 'no class'}; give each class its name")
    twice = sorted({name for name in tidy if tidy.count(name) > 1})
    if twice:
        raise UserError(f"{where} names the class {twice[0]!r} more than once; give each class its own name")
    odd = [ascii(name) for name in tidy if SURROGATE.search(name)]
    refuse(f"{where}: classes with names that are no UTF-8", odd, "; rename them")
    return tidy


def is_number(value: Any) -> bool:
    """Whether a value out of a file is a number of float64, NaN included: that is left to `annotations.clean`."""
    # Whole numbers have no end in JSON.
    return isinstance(value, float) or (_is_int(value) and abs(value) <= sys.float_info.max)


def is_whole(value: Any) -> bool:
    """Whether a value out of a file is a whole number of int64."""
    return _is_int(value) and -(2**63) <= value < 2**63


def is_polygon(values: Any) -> bool:
    """Whether these are the x, y, x, y, ... of a polygon that can be drawn."""
    return (
        isinstance(values, list)
        and len(values) % 2 == 0
        and all(is_number(value) and math.isfinite(value) and abs(value) < FARTHEST for value in values)
    )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
