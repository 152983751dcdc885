"""`yolo_folder`: boxes or polygons in rows of text, as Ultralytics lays them out, prepared from the user's own folder.

config.data.folder.root is ROOT of ROOT/images/SPLIT and ROOT/labels/SPLIT, or of ROOT/SPLIT/images and ROOT/SPLIT/labels.
labels/NAME.txt has one object per line: `class centre_x centre_y width height`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon,
all in fractions of the image. An image without such a file has no object. The classes' names are `names` in ROOT/data.yaml
(a list, or numbers with names), or the lines of ROOT/classes.txt.
"""

import itertools
import pathlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.annotations.annotated_image import AnnotatedImage
from input_pipeline.annotations.yolo_text import read_names, read_row
from input_pipeline.batch import refuse
from input_pipeline.datasets.detection_folder import Contents, DetectionFolder, describe_folder, walk
from input_pipeline.decoding import list_images


class YoloFolder(DetectionFolder):
    """The tfds builder; see `DetectionFolder`."""

    VERSION = tfds.core.Version("2.0.0")
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


def read_split(images: pathlib.Path, labels: pathlib.Path, class_count: int) -> list[AnnotatedImage]:
    """The images, sorted by name. Raises UserError for rows that cannot be used."""
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
    annotated, wrong = [], []
    for number, path in enumerate(paths, 1):
        image = AnnotatedImage(path, path.name, number, None, [])
        annotated.append(image)
        if path.stem not in rows:
            continue
        for line, row in enumerate(rows[path.stem].read_text("utf-8-sig", errors="replace").splitlines(), 1):
            if row.strip():
                try:
                    image.objects.append(read_row(row, class_count))
                except UserError as error:
                    wrong.append(f"{rows[path.stem]} line {line}: {error}")
    refuse(f"{labels}: rows that cannot be used", wrong)
    return annotated


YOLO_FOLDER = describe_folder(YoloFolder, masks=True)
