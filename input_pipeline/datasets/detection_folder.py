"""The common part of `coco_folder`, `voc_folder` and `yolo_folder`. It prepares a user's folder as a tfds dataset.

A subclass reads the annotations, and this module reads the images. Each image is decoded once, to find broken files, and stored
byte for byte. Boxes are stored in pixels as float64, so that nothing is rounded, without invalid ones (`objects.clean`). The
prepared set's metadata list dropped files, bad and clipped boxes, and images that are read as stored (`orientation`).
"""

import concurrent.futures
import dataclasses
import hashlib
import math
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from files import expand_user
from input_pipeline.annotations.annotated_image import (
    SURROGATE,
    AnnotatedImage,
    find_duplicates,
    name_duplicates,
    name_shared,
)
from input_pipeline.annotations.masks import decode_masks, encode_mask
from input_pipeline.batch import Size, refuse
from input_pipeline.datasets.holdout import mark
from input_pipeline.datasets.prepared import Dataset, Record, read_text
from input_pipeline.decoding import check_size, decode_samples, read_header, read_image, refuse_unreadable
from input_pipeline.objects import Objects, area, clean, clip, describe
from input_pipeline.orientation import is_upright, note_views
from input_pipeline.preparation import BuiltFromFolder

CHUNK = 64  # images handed to the threads at a time, so that few wait to be written


@dataclasses.dataclass(frozen=True)
class Contents:
    """The content of a folder's annotations. `category_ids` are the classes' own numbers, in the order of the names."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    splits: dict[str, list[AnnotatedImage]]
    remarks: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # for each split, as `remarks` writes them
    layout: str = ""  # the folder's layout, in one line
    maskless: str = ""  # why objects have no masks, if there is a reason


@dataclasses.dataclass
class Findings:
    """Facts about a split's files and boxes. They are stored as the prepared set's metadata."""

    dropped: list[str] = dataclasses.field(default_factory=list)  # images that cannot be decoded
    bad_boxes: list[str] = dataclasses.field(default_factory=list)  # boxes that were left out
    clipped_boxes: int = 0  # number of boxes that reached beyond their image
    unmasked: int = 0  # objects without a mask
    first_unmasked: str = ""  # the first file with such an object
    maskless: str = ""  # the reason, if there is one
    duplicates: list[str] = dataclasses.field(default_factory=list)  # repeated objects that were left out
    marks: list[str] = dataclasses.field(default_factory=list)  # of the examples' names, for config.data.holdout
    stored: list[str] = dataclasses.field(default_factory=list)  # images to be read as stored, not upright
    peak: int = 0  # the largest value of the 16-bit images, 0 where there are none
    largest: Size = (0, 0)  # size of the image with the most pixels
    remarks: list[str] = dataclasses.field(default_factory=list)
    content: str = ""  # a hash of images and annotations


class DetectionFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The tfds builder of the folder config.data.folder. Its config's name is a hash of the folder's content.

    A subclass lists the files (`list_files`) and reads the annotations (`read`). The constructor raises UserError for unusable
    annotations. Preparation raises it for unusable images.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"1.0.0": "First version.", "2.0.0": "Images are read upright."}
    relative = False  # coordinates are fractions of the image

    def __init__(self, *, folder: ConfigDict, largest: int, **options):
        self._folder, self._largest = folder, largest
        self._contents = self.read(folder)
        odd = [split for split in self._contents.splits if not re.fullmatch(r"[\w-]+", split)]
        refuse(f"{folder.root}: splits with names of more than letters, digits, _ and -", odd, "; rename them")
        if "all" in self._contents.splits:
            raise UserError(f"{folder.root} has a split named 'all', which means all splits in tfds; rename it")
        names = (image.name for images in self._contents.splits.values() for image in images)
        odd = [ascii(name) for name in names if SURROGATE.search(name)]
        refuse(f"{folder.root}: images with names that are not valid UTF-8", odd, "; rename them")
        super().__init__(config=tfds.core.BuilderConfig(name=self.identify(folder)), **options)

    @staticmethod
    def find_place(folder: ConfigDict) -> pathlib.Path:
        """Return the folder of all the files. Raise UserError if it is not a folder."""
        root = expand_user(folder.root)
        if not root.is_dir():
            raise UserError(
                f"config.data.folder.root={folder.root!r} is not a folder; set it to the one that holds the dataset"
            )
        return root

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        """List all files that the prepared set depends on."""
        raise NotImplementedError

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        """Read the annotations. Raise UserError."""
        raise NotImplementedError

    @classmethod
    def identify(cls, folder: ConfigDict) -> str:
        """Return a name that changes with the names, sizes and times of the files, but not with the folder's place."""
        place = cls.find_place(folder)
        # A broken link is not a file: the code that needs it reports it as missing.
        status = [(path.relative_to(place), path.stat()) for path in cls.list_files(folder) if path.exists()]
        content = [(path.as_posix(), entry.st_size, entry.st_mtime_ns) for path, entry in status]
        return hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def _info(self) -> tfds.core.DatasetInfo:
        # As bytes, because tfds otherwise stores numbers as float32.
        exact = {"dtype": np.float64, "encoding": "bytes"}
        features = {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),  # or the format of the file
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
            metadata=tfds.core.MetadataDict(
                category_ids=self._contents.category_ids,
                layout=self._contents.layout,
                root=str(self.find_place(self._folder).absolute()),
                findings={},
            ),
            disable_shuffling=True,  # examples stay in the order of the annotations
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self._contents.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        findings = Findings(maskless=self._contents.maskless)
        digest = hashlib.sha256(repr(self._contents.class_names).encode())
        images = self._contents.splits[split]
        wrong, unreadable, turned, count = [], [], [], 0
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for first in range(0, len(images), CHUNK):
                part = images[first : first + CHUNK]
                for image, read in zip(part, pool.map(self._load, part), strict=True):
                    data, size = read.data, read.size
                    if size is None:
                        findings.dropped.append(image.name)
                        unreadable.append(read.problem)
                        continue
                    if read.problem:
                        wrong.append(read.problem)
                        continue
                    try:
                        objects = self._convert(image, size, findings)
                    except UserError as error:
                        wrong.append(str(error))
                        continue
                    if read.turned:
                        (turned if read.upright else findings.stored).append(image.name)
                    findings.peak = max(findings.peak, read.peak)
                    findings.largest = max(findings.largest, size, key=math.prod)
                    digest.update(repr((image.name, size, hashlib.sha256(data).digest(), objects)).encode())
                    # After a fault the preparation will fail, so nothing more needs to be written.
                    if not wrong:
                        yield (
                            count,
                            {
                                "file_name": image.name,
                                "image": data,
                                "image/id": image.image_id,
                                "image/size": size,
                                "objects": objects,
                            },
                        )
                        findings.marks.append(mark(image.name))
                        count += 1
        refuse(f"{split}: images that do not fit their annotations or config.data", wrong)
        if not self._folder.drop_unreadable:
            refuse_unreadable(split, unreadable)
        if not count:
            raise UserError(f"{split}: none of the images can be decoded ({unreadable[0]})")
        if turned:  # earlier versions read other pixels from the same bytes, which were not turned upright
            digest.update(repr(turned).encode())
        findings.content = digest.hexdigest()[:16]
        findings.remarks = [
            *self._contents.remarks.get(split, ()),
            *name_shared(self._contents.splits, split),
            *note_views(turned, findings.stored),
            *name_duplicates(findings.duplicates),
        ]
        assert self.info.metadata is not None  # _info sets it
        self.info.metadata["findings"][split] = dataclasses.asdict(findings)

    def _load(self, image: AnnotatedImage) -> "Read":
        return load(image, self._largest)

    def _convert(self, image: AnnotatedImage, size: Size, findings: Findings) -> list[dict[str, Any]]:
        """Return an image's objects as stored, and record the others in `findings`. Raise UserError for a bad mask."""
        height, width = size
        boxes = np.array([found.box for found in image.objects], np.float64).reshape(-1, 4)
        if self.relative:
            boxes = boxes * np.tile(size, 2)
        keep, reasons = clean(boxes, size)
        clipped = clip(boxes, (0, 0, *size))
        findings.clipped_boxes += int((clipped != boxes).any(axis=1)[keep].sum())
        converted, again = [], find_duplicates(image.objects)
        for i, found in enumerate(image.objects):
            class_name = self._contents.class_names[found.label]
            if not keep[i]:
                findings.bad_boxes.append(describe(image.name, i + 1, class_name, reasons[i]))
                continue
            if i in again:
                findings.duplicates.append(
                    describe(image.name, i + 1, class_name, f"the same as object {again[i] + 1}")
                )
                continue
            segmentation = found.segmentation
            if self.relative:
                segmentation = [
                    (np.reshape(polygon, (-1, 2)) * (width, height)).ravel().tolist() for polygon in segmentation
                ]
            try:
                mask = encode_mask(segmentation, size)
            except UserError as error:
                raise UserError(f"{image.path}: object {i + 1}: {error}") from error
            if not mask:
                findings.unmasked += 1
                findings.first_unmasked = findings.first_unmasked or image.name
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


class Read(NamedTuple):
    """An image file as it was read, and its fault."""

    data: bytes
    problem: str = ""
    size: Size | None = None  # of the view that its annotations describe; None where it cannot be decoded
    turned: bool = False  # it has an EXIF orientation
    upright: bool = True
    peak: int = 0  # the largest value of a 16-bit image


def load(image: AnnotatedImage, largest: int) -> Read:
    """Read an image file and decode it once. More than `largest` pixels are a fault, but the file is not dropped as broken."""
    data, name = b"", str(image.path)
    try:
        data = read_image(image.path, largest)
        header = read_header(data, name)
    except UserError as error:
        return Read(data, str(error))
    try:
        check_size(header.upright, name, largest)
    except UserError as error:
        return Read(data, str(error), header.upright)
    try:
        samples = decode_samples(data, name)
    except UserError as error:
        return Read(data, str(error))
    try:
        upright = is_upright(header, image.size, name)
    except UserError as error:
        return Read(data, str(error), header.upright)
    size = header.upright if upright else header.stored
    return Read(data, "", size, header.orientation > 1, upright, int(samples.max()) if samples.itemsize > 1 else 0)


def describe_folder(
    builder: type[DetectionFolder], *, masks: bool = False, image_id: Callable[[Record], int] | None = None
) -> Dataset:
    """Return the dataset that such a builder prepares. Without `image_id`, examples are numbered from 1."""
    return Dataset(
        preparation=BuiltFromFolder(builder),
        name=lambda record: read_text(record, "file_name"),
        image_id=image_id,
        size=_read_size,
        read_objects=_read_objects,
        read_masks=_read_masks if masks else None,
        has_findings=True,
    )


def _read_size(record: Record) -> Size:
    height, width = map(int, record["image/size"])
    return height, width


def _read_objects(record: Record, size: Size) -> Objects:
    listed = record["objects"]
    keys = {"label": "classes", "is_crowd": "crowd", "is_difficult": "difficult", "area": "area"}
    boxes = np.array(listed["bbox"], np.float64).reshape(-1, 4)
    return {"boxes": boxes} | {name: np.array(listed[key]) for key, name in keys.items()}


def _read_masks(record: Record, size: Size) -> np.ndarray:
    return decode_masks(record["objects"]["mask"], size)
