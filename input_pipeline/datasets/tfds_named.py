"""`tfds:NAME`, any dataset that tfds has prepared, by its name and features there. Nothing is downloaded.

NAME may include a config and a version, as tfds writes them: `tfds:coco/2014`, `tfds:lvis:1.3.0`. Its features must have an
image. Labels need a second image of one channel, with class names in it or in config.data.folder.classes. Boxes need a sequence
with a BBox and a ClassLabel, or one of each. Class names, splits and ids come from the dataset.
"""

import hashlib
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from files import expand_user
from input_pipeline.batch import IGNORE, SHOWN, Size
from input_pipeline.datasets.mask_folder import read_classes
from input_pipeline.datasets.prepared import Dataset, Record, read_text
from input_pipeline.decoding import decode_mask
from input_pipeline.objects import Objects
from input_pipeline.preparation import VERSION
from input_pipeline.prepared_folder import BY_TFDS, INFO, PreparedFolder
from input_pipeline.sources import Source

PREFIX = "tfds:"
NAME = re.compile(r"tfds:(\w[\w-]*(?:/[\w.-]+)?)(?::(\d+\.\d+\.\d+))?")
NAMES = ("file_name", "image/filename", "image/file_name", "filename", "image_name", "image_id", "image/id", "id")
IDS = ("image/id", "image_id", "id")
FLAGS = {"crowd": ("is_crowd",), "difficult": ("is_difficult", "difficult"), "area": ("area",)}
FORMATS = {None: True, "REL_YXYX": True, "YXYX": False}  # formats of a BBox: whether it is in fractions of the image

Features = dict[str, Any]


class TfdsNamed:
    """A dataset of tfds (see `datasets.registry`). Only opening it shows what it really provides."""

    provides = ("label", "boxes")

    def __init__(self, name: str):
        match = NAME.fullmatch(name)
        if not match:
            raise UserError(
                f"config.data.name={name!r} is not a name of tfds; write tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:1.0.0"
            )
        self.name, self.version = match[1], match[2]

    def open(self, data: ConfigDict, split: str, place: pathlib.Path, needs: tuple[str, ...]) -> Source:
        folder = find_folder(place, self.name, self.version)
        features = PreparedFolder(folder, BY_TFDS).features
        dataset = describe(features, folder, data, needs)
        return dataset.open(data, split, place, needs)


def find_folder(place: pathlib.Path, name: str, version: str | None) -> pathlib.Path:
    """Return the prepared dataset `name` below `place`, the newest version unless one is named. Raise UserError."""
    wanted = version or "*"
    for pattern in (f"{wanted}/dataset_info.json", f"*/{wanted}/dataset_info.json"):
        found = [path.parent for path in (place / name).glob(pattern)]
        configs = sorted({path.parent.name for path in found})
        if len(configs) > 1:
            raise UserError(
                f"config.data.name='tfds:{name}' is prepared in {place} with the configs {', '.join(configs)}; choose one, such "
                f"as tfds:{name}/{configs[0]}"
            )
        if found:
            return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    if (place / name / "dataset_info.json").is_file():
        return place / name
    held = [path for depth in (wanted, f"*/{wanted}") for path in (place / name).glob(depth)]
    broken = [path for path in held if VERSION.fullmatch(path.name) and not (path / INFO).exists()]
    if broken:
        raise UserError(f"{broken[0]} is damaged (it has no {INFO}); {BY_TFDS}")
    there = {
        path.relative_to(place).parts for depth in ("*/*", "*/*/*") for path in place.glob(f"{depth}/dataset_info.json")
    }
    there = sorted("/".join(parts[:-2]) for parts in there)
    held = f"; prepared there: {', '.join(there[:10])}" if there else ""
    raise UserError(
        f"config.data.name='tfds:{name}' is not prepared in {place}; set --tfds_data_dir or TFDS_DATA_DIR to the folder that "
        f"holds {name}/, or prepare it once with `tfds build {name} --file_format=array_record --data_dir={place}`{held}"
    )


def describe(features: Features, folder: pathlib.Path, data: ConfigDict, needs: tuple[str, ...]) -> Dataset:
    """Return the Dataset that turns records with `features` into examples with `needs`. Raise UserError if impossible."""
    from tensorflow_datasets import features as kinds

    def refuse(lacks: str) -> UserError:
        listed = ", ".join(f"{key}: {_describe(feature)}" for key, feature in sorted(features.items()))
        return UserError(f"config.data.name={data.name!r} has no readable {lacks}; its features are {listed}")

    images: Features = {key: feature for key, feature in features.items() if isinstance(feature, kinds.Image)}
    masks = {
        key: feature
        for key, feature in images.items()
        if key != "image" and (isinstance(feature, kinds.LabeledImage) or feature.shape[-1] == 1)
    }
    pictures = [key for key in images if key not in masks]
    key = "image" if "image" in pictures else pictures[0] if len(pictures) == 1 else ""
    if not key:
        raise refuse("image" if not pictures else f"single image (which of {' and '.join(pictures)}?)")
    named = next((own for own in NAMES if isinstance(features.get(own), kinds.Text)), None)
    number = next((own for own in IDS if _is_whole(features.get(own))), None)
    rename = {key: "image"}
    facts: dict[str, Any] = {
        "preparation": folder,
        "rename": rename,
        "name": (lambda record: read_text(record, named)) if named else _name_by_content,
        "image_id": (lambda record: int(record[number])) if number else None,
    }
    if "boxes" in needs:
        names, read_objects = _find_objects(features, kinds, refuse)
        return Dataset(box_names=names, read_objects=read_objects, as_stored=True, **facts)
    if len(masks) != 1:
        raise refuse(
            "mask (an image of one channel)" if not masks else f"single mask (which of {' and '.join(masks)}?)"
        )
    ((mask, feature),) = masks.items()
    class_names = tuple(getattr(feature, "names", None) or _read_names(data, mask))
    read_label = _label_reader(mask, len(class_names), data.folder.ignore_value, facts["name"])
    return Dataset(class_names=class_names, read_label=read_label, **facts)


def _find_objects(
    features: Features, kinds: Any, refuse: Callable[[str], UserError]
) -> tuple[tuple[str, ...], Callable[[Record, Size], Objects]]:
    """Return the class names of boxes, and the function that reads a record's objects."""
    groups = {key: feature.feature for key, feature in features.items() if isinstance(feature, kinds.Sequence)}
    groups = {key: dict(inner.items()) for key, inner in groups.items() if isinstance(inner, kinds.FeaturesDict)}
    groups = {"": features} | groups  # "" for one object per image
    found = []
    for group, inner in groups.items():
        boxes = [key for key, feature in inner.items() if isinstance(feature, kinds.BBoxFeature)]
        labels = [key for key, feature in inner.items() if isinstance(feature, kinds.ClassLabel)]
        labels = ["label"] if "label" in labels else labels
        if len(boxes) == 1 and len(labels) == 1:
            found.append((group, boxes[0], labels[0]))
    if len(found) != 1:
        raise refuse(
            "sequence of a BBox and a ClassLabel" if not found else "single sequence of a BBox and a ClassLabel"
        )
    ((group, box, label),) = found
    inner = groups[group]
    style = inner[box].bbox_format
    style = getattr(style, "value", style)
    if style not in FORMATS:
        raise refuse(f"BBox in the format REL_YXYX or YXYX (it is {style})")
    flags = {ours: next((key for key in theirs if key in inner), None) for ours, theirs in FLAGS.items()}

    def read_objects(record: Record, size: Size) -> Objects:
        listed = record[group] if group else record
        boxes = np.array(listed[box], np.float64).reshape(-1, 4)
        classes = np.array(listed[label]).reshape(-1)
        if (classes < 0).any():
            raise UserError(f"{group or 'the record'} holds an object without a class ({label} is {classes.min()})")
        read = {
            ours: np.array(listed[key]).reshape(-1) for ours, key in flags.items() if key and (group or ours != "area")
        }
        return {"boxes": boxes * np.tile(size, 2) if FORMATS[style] else boxes, "classes": classes} | read

    return tuple(inner[label].names), read_objects


def _label_reader(key: str, classes: int, ignore: int, name: Callable[[Record], str]) -> Callable[[Record], np.ndarray]:
    """Return the function that reads a record's mask, stored as `key`."""

    def read_label(record: Record) -> np.ndarray:
        values = decode_mask(record[key], f"the {key} of {name(record)}")
        if values.ndim == 3:
            raise UserError(f"the {key} of {name(record)} holds colours, but only masks of class indices are supported")
        nowhere = (values == ignore) | (values == IGNORE)
        if (values[~nowhere] >= classes).any():
            raise UserError(
                f"the {key} of {name(record)} has the value {values[~nowhere].max()}, but there are {classes} classes (0 to "
                f"{classes - 1}); name them all, or set config.data.folder.ignore_value if it means no class"
            )
        return np.where(nowhere, IGNORE, values).astype(np.uint8)

    return read_label


def _read_names(data: ConfigDict, mask: str) -> tuple[str, ...]:
    """Return the class names from config.data.folder.classes, where the dataset does not name them."""
    path = expand_user(data.folder.root) / expand_user(data.folder.classes)
    if not path.is_file():
        raise UserError(
            f"config.data.name={data.name!r} has no class names for its {mask}; write one name per line into a file, starting "
            "with the value 0, and set config.data.folder.classes to it"
        )
    return read_classes(path)[0]


def _name_by_content(record: Record) -> str:
    return f"image_{hashlib.sha256(record['image']).hexdigest()[:12]}"


def _is_whole(feature: Any) -> bool:
    dtype = getattr(feature, "np_dtype", None)
    return dtype is not None and getattr(feature, "shape", None) == () and np.issubdtype(dtype, np.integer)


def _describe(feature: Any) -> str:
    """Return a feature in a few words, for an error."""
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return f"Sequence of {_describe(inner)}"
    if hasattr(feature, "items"):
        members = [f"{key}: {type(own).__name__}" for key, own in sorted(feature.items())]
        return "{" + ", ".join(members[: 2 * SHOWN]) + "}"
    return type(feature).__name__
