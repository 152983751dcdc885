"""Datasets that tfds has prepared as array_record, with functions that read a stored record, and sources made of them.

Prepared folders are read as they are, without TensorFlow. Encoded images are decoded here, by their content, not by their name.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.annotations.annotated_image import check_letters
from input_pipeline.batch import Example, Size
from input_pipeline.datasets.holdout import find_split, mark, name_field, select_side
from input_pipeline.decoding import (
    check_size,
    choose_white,
    decode_image,
    decode_mask,
    read_header,
    read_size,
    refuse_unreadable,
)
from input_pipeline.objects import Objects, area, clean, clip, describe
from input_pipeline.orientation import is_mask_upright
from input_pipeline.preparation import Preparation, find_prepared, prepare
from input_pipeline.prepared_folder import BY_TFDS, PreparedFolder
from input_pipeline.remarks import add_white, note_white
from input_pipeline.sources import Source, parse_split
from wording import count

Record = dict[str, Any]  # as tfds stores it, images encoded
RECENT = 64  # encoded records kept in memory
FIRST = "1.0.0"  # version in the fingerprint of data that was prepared from a folder


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The preparation of a dataset, and how one of its records becomes an example. Images are stored as "image".

    `read_objects` returns all objects as annotated: "boxes" [N,4] (yxyx pixels, including bad boxes and parts beyond the image),
    "classes" [N], and those of "crowd", "difficult" and "area" that the dataset has.
    """

    preparation: Preparation | pathlib.Path  # or the folder in which it is already prepared
    name: Callable[[Record], str]
    image_id: Callable[[Record], int] | None = None  # None: examples are numbered from 1
    size: Callable[[Record], Size] | None = None  # None: the size is in the image's header
    as_stored: bool = False  # boxes refer to the pixels as stored, which is how tfds decodes them
    has_findings: bool = False  # its metadata holds the findings of its preparation for each split
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)  # keys of a record, as stored and as read
    class_names: tuple[str, ...] = ()  # of the label
    box_names: tuple[str, ...] = ()  # the classes of boxes, where the stored "objects" do not name them
    category_ids: tuple[int, ...] = ()  # of boxes, where they are not stored
    read_label: Callable[[Record], np.ndarray] | None = None  # -> [H,W]
    read_objects: Callable[[Record, Size], Objects] | None = None
    read_masks: Callable[[Record, Size], np.ndarray] | None = None  # -> [N] of masks.Mask, of all objects

    @property
    def provides(self) -> tuple[str, ...]:
        """The keys of sources.ASKED_BY that can be read."""
        readers = {"label": self.read_label, "boxes": self.read_objects, "masks": self.read_masks}
        return tuple(need for need, read in readers.items() if read)

    def open(self, data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]) -> Source:
        return (PreparedObjects if "boxes" in needs else PreparedLabels)(self, data, split, place, needs)


def read_text(record: Record, key: str) -> str:
    value = record[key]
    return value.decode() if isinstance(value, bytes) else str(value)


def read_label(record: Record) -> np.ndarray:
    """Read the values [H,W] of the mask stored as "segmentation_mask"."""
    return decode_mask(record["segmentation_mask"], f"the mask of {read_text(record, 'file_name')}")


def scale_boxes(record: Record, size: Size) -> np.ndarray:
    """Return a record's boxes [N,4] float64 in pixels. tfds stores them divided by the image's size."""
    return np.array(record["objects"]["bbox"], np.float64).reshape(-1, 4) * np.tile(size, 2)


class Prepared:
    """A split of a prepared dataset. A subclass reads its examples."""

    absent: tuple[str, ...] = ()
    class_names: tuple[str, ...]

    def __init__(self, dataset: Dataset, data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]):
        name, how, self.dataset, self.needs = data.name, dataset.preparation, dataset, needs
        if isinstance(how, pathlib.Path):
            folder, repair = how, BY_TFDS
        else:
            found = find_prepared(name, how, place, data.folder)
            folder, repair = found or prepare(name, how, place, data.folder, data.max_pixels), how.repair
        self.folder = folder
        prepared = PreparedFolder(folder, repair)
        asked, select = parse_split(split)
        wanted = find_split(asked, list(prepared.splits), data, f"{name} in {folder}")
        self._features, self._records = self._rename(prepared.features), prepared.open_records(wanted)
        self._masks = [key for key in self._features if key != "image" and key in prepared.images]
        metadata = prepared.metadata
        self._findings = metadata.get("findings", {}).get(wanted, {})
        if dataset.has_findings and not self._findings:
            prepared.refuse(f"it has no findings for {wanted}")
        places: Sequence[int] = range(len(self._records))
        if data.holdout:
            marks = self._findings.get("marks") or [
                mark(dataset.name(self._rename(record))) for record in self._records
            ]
            places = select_side(marks, asked, data)
            split = f"{split} held out {data.holdout} {data.holdout_seed}"
        self._places = [places[index] for index in select(len(places))]
        if not self._places:
            raise UserError(f"{name_field(data, asked)}: {split!r} of {name} holds no examples; choose another part")
        # Name, size, boxes and image of an example are read one by one, and each needs the record.
        self._record = functools.lru_cache(maxsize=RECENT)(self._fetch)
        self._category_ids = tuple(metadata.get("category_ids", dataset.category_ids))
        self.dropped = tuple(self._findings.get("dropped", ()))
        self.bad_boxes = tuple(self._findings.get("bad_boxes", ()))
        self.clipped_boxes = self._findings.get("clipped_boxes", 0)
        self.layout, self.remarks = metadata.get("layout", ""), tuple(self._findings.get("remarks", ()))
        self._stored = frozenset(self._findings.get("stored", ()))
        self._largest, self.peak = data.max_pixels, self._findings.get("peak", 0)
        check_size(self._findings.get("largest", (0, 0)), f"{name} {wanted}: an image", data.max_pixels)
        if self._features["image"].np_dtype == np.uint16:  # a dataset of tfds, whose images were not examined
            self.peak = data.white_level
            if not self.peak:
                raise UserError(
                    f"{name} holds 16-bit images, and their white value is unknown; set config.data.white_level to 4095 for a "
                    "12-bit camera, or to 65535 if the whole range is used"
                )
        self.white = data.white_level or choose_white(self.peak)
        self.remarks += note_white(self.peak, self.white)
        if self.dropped and not data.folder.drop_unreadable:
            refuse_unreadable(f"{name} {wanted}", list(self.dropped))
        checksums = {key: f"{examples}{size}" for key, (examples, size) in prepared.splits.items()}
        content = self._findings.get("content", "")  # hash of a folder: the sizes alone would not show every change
        version = FIRST if content else prepared.version  # the same content prepared in another way is the same data
        fingerprint = hashlib.sha256(f"{name} {version} {split} {checksums}{content}".encode()).hexdigest()[:16]
        self.fingerprint = add_white(fingerprint, self.peak, self.white)

    def _name_classes(self, names: tuple[str, ...]) -> None:
        check_letters(names, self.folder)
        self.class_names, self.category_ids = names, self._category_ids or tuple(range(1, len(names) + 1))

    def __len__(self) -> int:
        return len(self._places)

    def _fetch(self, index: int) -> Record:
        record = self._rename(self._records[self._places[index]])
        for key in self._masks:  # the size of the image is checked when it is decoded
            name = f"the {key} of {self.dataset.name(record)}"
            check_size(read_size(record[key], name), name, self._largest)
        return record

    def _rename(self, stored: Mapping[str, Any]) -> Record:
        return {self.dataset.rename.get(key, key): value for key, value in stored.items()}

    def name(self, index: int) -> str:
        return self.dataset.name(self._record(index))

    def image_id(self, index: int) -> int:
        return self.dataset.image_id(self._record(index)) if self.dataset.image_id else index + 1

    def size(self, index: int) -> Size:
        return self._size(self._record(index))

    def _size(self, record: Record) -> Size:
        if self.dataset.size:
            return self.dataset.size(record)
        header = read_header(record["image"], self.dataset.name(record))
        return header.stored if self.dataset.as_stored else header.upright

    def _decode(self, record: Record, upright: bool) -> np.ndarray:
        name = self.dataset.name(record)
        return decode_image(record["image"], name, upright=upright, white=self.white, largest=self._largest)


class PreparedLabels(Prepared):
    """Images with the class of each pixel."""

    def __init__(self, dataset: Dataset, data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]):
        super().__init__(dataset, data, split, place, needs)
        assert dataset.read_label is not None
        self._read_label = dataset.read_label
        self._name_classes(dataset.class_names)

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        name, label = self.dataset.name(record), self._read_label(record)
        upright = is_mask_upright(read_header(record["image"], name), label.shape, name, f"the mask of {name}")
        return {"image": self._decode(record, upright), "label": label}

    def _size(self, record: Record) -> Size:
        size, header = super()._size(record), read_header(record["image"], self.dataset.name(record))
        return size if header.upright == header.stored else self._read_label(record).shape


class PreparedObjects(Prepared):
    """Images with the boxes of objects, and with their masks if these are needed."""

    def __init__(self, dataset: Dataset, data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]):
        super().__init__(dataset, data, split, place, needs)
        assert dataset.read_objects is not None
        self._read_objects = dataset.read_objects
        self._name_classes(dataset.box_names or tuple(self._features["objects"]["label"].names))
        unmasked = self._findings.get("unmasked", 0)
        reason = " ({})".format(self._findings["maskless"]) if self._findings.get("maskless") else ""
        if "masks" in needs and unmasked:
            raise UserError(
                f"config.data: masks are needed, but missing for {count(unmasked, 'object')} of {split} in {data.name}, the "
                f"first in {self._findings['first_unmasked']}{reason}; add masks, or do without them: set "
                "config.data.augment.copy_paste=0.0 and choose a task of boxes, such as faster_rcnn"
            )

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        upright = not self.dataset.as_stored and self.dataset.name(record) not in self._stored
        image = self._decode(record, upright)
        objects, keep, _ = self._read(record, image.shape[:2])
        if "masks" in self.needs and self.dataset.read_masks:
            objects["masks"] = self.dataset.read_masks(record, image.shape[:2])[keep]
        return {"image": image} | objects

    def objects(self, index: int) -> tuple[Size, Objects]:
        record = self._record(index)
        size = self._size(record)
        return size, self._read(record, size)[0]

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        record = self._record(index)
        size = self._size(record)
        _, _, reasons = self._read(record, size)
        labels = self._read_objects(record, size)["classes"]
        return tuple(
            describe(self.dataset.name(record), i + 1, self.class_names[labels[i]], reason)
            for i, reason in enumerate(reasons)
            if reason
        )

    def _read(self, record: Record, size: Size) -> tuple[Objects, np.ndarray, list[str]]:
        """Return the valid objects of a record, which of all its objects are valid [N] bool, and the faults of the others."""
        annotated = self._read_objects(record, size)
        keep, reasons = clean(annotated["boxes"], size)
        boxes = clip(annotated["boxes"], (0, 0, *size))
        none = np.zeros(len(boxes))
        every = {"crowd": none, "difficult": none, "area": area(boxes)} | annotated | {"boxes": boxes}
        dtypes = {"boxes": np.float64, "classes": np.int32, "crowd": bool, "difficult": bool, "area": np.float64}
        return {key: np.array(every[key], dtype)[keep] for key, dtype in dtypes.items()}, keep, reasons
