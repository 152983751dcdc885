"""`coco_folder`, boxes and masks in COCO's JSON, prepared from the user's own folder. Nothing is downloaded.

config.data.folder.root has one of the layouts of layouts/coco.py. `file_name` is a path below the folder of the split's images or
below the root, with or without folders. Nothing outside the root is read. A split exists if it has annotations and images. The
classes of all files are joined, because one file may lack some, and sorted by id. Ids of classes and images are kept.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from files import expand_user
from input_pipeline.annotations.annotated_image import AnnotatedImage
from input_pipeline.annotations.coco_json import read_instances
from input_pipeline.datasets.detection_folder import Contents, DetectionFolder, describe_folder
from input_pipeline.datasets.layouts.layout import describe_other_files, list_below
from input_pipeline.datasets.layouts.recognition import recognise
from input_pipeline.remarks import name_files

NAME = "coco_folder"


class CocoFolder(DetectionFolder):
    """The tfds builder of a `coco_folder` (see `DetectionFolder`)."""

    VERSION = tfds.core.Version("2.0.0")

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        splits = recognise(NAME, cls.find_place(folder)).splits.values()
        return [
            *(path for path, _ in splits),
            *(file for images in dict.fromkeys(images for _, images in splits) for file in list_below(images)),
        ]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        root, splits, categories = cls.find_place(folder), {}, {}
        layout = recognise(NAME, root)
        for split, (path, images) in layout.splits.items():
            splits[split], categories[path] = read_instances(path, images, root)
        known = _join(categories)
        for split, (path, _) in layout.splits.items():
            if categories[path] != known:
                _relabel(splits[split], [list(known).index(category_id) for category_id in categories[path]])
        named = {image.path for images in splits.values() for image in images}
        folders = {images for _, images in layout.splits.values()}
        others = sorted(path.name for folder in folders for path in list_below(folder) if path not in named)
        passed = name_files("skipped (images that no JSON file lists)", others) + describe_other_files(named)
        remarks = {split: [*layout.remarks(split), *passed] for split in splits}
        return Contents(tuple(known.values()), tuple(known), splits, remarks, layout.describe())

    @classmethod
    def number(cls, folder: ConfigDict) -> dict[pathlib.Path, int]:
        """Return the ids of all images by file, without ids that occur more than once. Raise UserError."""
        images = [image for images in cls.read(folder).splits.values() for image in images]
        times = collections.Counter(image.image_id for image in images)
        return {image.path.resolve(): image.image_id for image in images if times[image.image_id] == 1}


def _join(categories: dict[pathlib.Path, dict[int, str]]) -> dict[int, str]:
    """Return the category names of all files by id. Raise UserError where files contradict each other."""
    known: dict[int, str] = {}
    numbers: dict[str, int] = {}
    where: dict[int | str, pathlib.Path] = {}
    for path, named in categories.items():
        for number, name in named.items():
            other = where.setdefault(number, path), where.setdefault(name, path)
            if known.setdefault(number, name) != name or numbers.setdefault(name, number) != number:
                first = other[0] if other[0] != path else other[1]
                raise UserError(
                    f"{path} has the category {name!r} with the id {number}, but {first.name} has another name or id for it; "
                    "write the same name and id into both"
                )
    return dict(sorted(known.items()))


def _relabel(images: list[AnnotatedImage], places: list[int]) -> None:
    """Replace labels, which are places in the file's own list of categories, by their `places` in the joint list."""
    for image in images:
        image.objects[:] = [dataclasses.replace(found, label=places[found.label]) for found in image.objects]


def number_images(data: ConfigDict, paths: Sequence[pathlib.Path]) -> list[int]:
    """Return the ids of the images in `paths` from a coco_folder's JSON files, [] where not all have their own."""
    if not expand_user(data.folder.root).is_dir():  # the model was moved to another machine
        return []
    try:
        known = CocoFolder.number(data.folder)
    except UserError:  # predictions do not need the annotations
        return []
    resolved = [path.resolve() for path in paths]
    return [known[path] for path in resolved] if all(path in known for path in resolved) else []


COCO_FOLDER = describe_folder(CocoFolder, masks=True, image_id=lambda record: int(record["image/id"]))
