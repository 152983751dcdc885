"""`yolo_folder`: boxes or polygons in rows of text, as Ultralytics lays them out, prepared from the user's own folder.

config.data.folder.root is ROOT of ROOT/images/SPLIT and ROOT/labels/SPLIT, or of ROOT/SPLIT/images and ROOT/SPLIT/labels.
labels/NAME.txt has an object a line: `class centre_x centre_y width height`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon,
all in fractions of the image. An image without such a file has no object. The classes' names are `names` in ROOT/data.yaml
(a list, or numbers with names), or the lines of ROOT/classes.txt.
"""

import itertools
import pathlib

import tensorflow_datasets as tfds
import yaml
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.batch import refuse
from input_pipeline.datasets.detection_folder import (
    Annotation,
    Contents,
    DetectionFolder,
    Picture,
    check_names,
    is_polygon,
    walk,
)
from input_pipeline.decoding import list_images

LARGEST = 2.0  # a fraction beyond it was meant in pixels; a little more than 1 is an object that leaves the image


class YoloFolder(DetectionFolder):
    """The tfds builder; see `DetectionFolder`."""

    VERSION = tfds.core.Version("1.0.0")
    relative = True

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        root = cls.find_place(folder)
        names = [path for path in (root / "data.yaml", root / "classes.txt") if path.is_file()]
        places = find_splits(root).values()
        return names + [file for images, labels in places for file in (*list_images(images), *walk(labels, (".txt",)))]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        root = cls.find_place(folder)
        class_names = read_names(root)
        splits = {
            split: read_split(images, labels, len(class_names)) for split, (images, labels) in find_splits(root).items()
        }
        return Contents(class_names, tuple(range(1, len(class_names) + 1)), splits)


def find_splits(root: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """The folders of images and of labels of each split. Raises UserError where there is none."""
    splits = {place.name: (place, root / "labels" / place.name) for place in sorted(root.glob("images/*"))}
    splits |= {place.parent.name: (place, place.parent / "labels") for place in sorted(root.glob("*/images"))}
    splits = {split: places for split, places in splits.items() if all(place.is_dir() for place in places)}
    if not splits:
        raise UserError(
            f"config.data.folder.root={str(root)!r} has no images/SPLIT with a labels/SPLIT, and no SPLIT/images with a "
            "SPLIT/labels; give the folder that holds them"
        )
    return splits


def read_names(root: pathlib.Path) -> tuple[str, ...]:
    """The classes' names. Raises UserError where there are none."""
    path = root / "data.yaml"
    if not path.is_file():
        path = root / "classes.txt"
        if not path.is_file():
            raise UserError(f"{root} has no data.yaml and no classes.txt; write a class name a line into classes.txt")
        return check_names(
            [line for line in path.read_text("utf-8-sig", errors="replace").splitlines() if line.strip()], path
        )
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError) as error:  # the latter of dates and numbers that cannot be
        raise UserError(f"{path} cannot be parsed as YAML ({str(error).splitlines()[0]}); correct it") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise UserError(f"{path} has no `names`: a list, or each number from 0 with its name; write them")
    # Without quotes on, no, 1.5 and null are no text in YAML.
    odd = [f"{i} is {name!r}" for i, name in enumerate(names) if type(name) not in (str, int)]  # bool is an int
    refuse(f"{path}: classes with names that are neither text nor whole numbers", odd, "; put them in quotes")
    return check_names([str(name) for name in names], path)


def read_split(images: pathlib.Path, labels: pathlib.Path, class_count: int) -> list[Picture]:
    """The pictures, sorted by name. Raises UserError for rows that cannot be used."""
    paths = list_images(images)
    if not paths:
        raise UserError(f"{images} holds no image")
    for first, second in itertools.pairwise(paths):
        if first.stem == second.stem:
            raise UserError(f"{first} and {second.name} would share one file of labels; rename one of them")
    rows = {path.stem: path for path in walk(labels, (".txt",)) if path.name != "classes.txt"}
    missing = [str(path) for stem, path in rows.items() if stem not in {path.stem for path in paths}]
    refuse(f"{images}: images that are missing for files of labels", missing, "; bring them, or take the labels away")
    if not rows:
        raise UserError(f"{labels} has no file for any image in {images}; an image's labels are NAME.txt there")
    pictures, wrong = [], []
    for number, path in enumerate(paths, 1):
        picture = Picture(path, path.name, number, None, [])
        pictures.append(picture)
        if path.stem not in rows:
            continue
        for line, row in enumerate(rows[path.stem].read_text("utf-8-sig", errors="replace").splitlines(), 1):
            if row.strip():
                try:
                    picture.objects.append(read_row(row, class_count))
                except UserError as error:
                    wrong.append(f"{rows[path.stem]} line {line}: {error}")
    refuse(f"{labels}: rows that cannot be used", wrong)
    return pictures


def read_row(row: str, class_count: int) -> Annotation:
    """One object, in fractions of the image. Raises UserError that says what is wrong with the row."""
    try:
        number, *values = map(float, row.split())
    except ValueError:
        raise UserError(f"{row.strip()!r} holds what is no number") from None
    if number not in range(class_count):
        raise UserError(
            f"class {row.split()[0]}, but there are {class_count} (0 to {class_count - 1}); name it, or correct it"
        )
    label = int(number)
    far = [value for value in values if abs(value) > LARGEST]
    if far:
        raise UserError(f"{far[0]:g} is no fraction of the image; divide x by its width and y by its height")
    if len(values) == 4:
        x, y, width, height = values
        return Annotation((y - height / 2, x - width / 2, y + height / 2, x + width / 2), label)
    if len(values) < 6 or not is_polygon(values):
        raise UserError(
            f"{len(values)} numbers after the class; a box has 4 (centre x, centre y, width, height), a polygon x and y of 3 "
            "points or more"
        )
    xs, ys = values[::2], values[1::2]
    return Annotation((min(ys), min(xs), max(ys), max(xs)), label, segmentation=[values])
