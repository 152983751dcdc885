"""`yolo_folder`, boxes or polygons in Ultralytics' or Darknet's rows of text, from the user's own folder.

config.data.folder.root has one of the layouts of layouts/yolo.py. NAME.txt has one object per line: `class centre_x centre_y
width height`, or `class x1 y1 x2 y2 x3 y3 ...` for a polygon, all in fractions of the image. An image without such a file has no
objects. The class names are `names` in data.yaml (a list, or numbers with names), or the lines of classes.txt. For keypoints
(`kpt_shape` in data.yaml) only the boxes are read. Oriented boxes are read as the upright boxes around them. Nothing is
downloaded.
"""

import pathlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from files import read_text
from input_pipeline.annotations.annotated_image import AnnotatedImage
from input_pipeline.annotations.yolo_data import find_data_file, list_name_files, note_count, read_classes
from input_pipeline.annotations.yolo_text import Row, convert, find_meaning, read_row
from input_pipeline.batch import refuse
from input_pipeline.datasets.detection_folder import Contents, DetectionFolder, describe_folder
from input_pipeline.datasets.layouts.layout import Pair
from input_pipeline.datasets.layouts.recognition import recognise
from limits import MOST_WRONG, ROWS


class YoloFolder(DetectionFolder):
    """The tfds builder of a `yolo_folder` (see `DetectionFolder`)."""

    VERSION = tfds.core.Version("2.0.0")
    relative = True

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        root = cls.find_place(folder)
        layout = recognise("yolo_folder", root)
        names = list_name_files(root)
        return [
            *layout.files,
            *names,
            *(path for pairs in layout.splits.values() for pair in pairs for path in pair[:2] if path),
        ]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        root = cls.find_place(folder)
        layout, data = recognise("yolo_folder", root), find_data_file(root)
        classes = read_classes(root, data)
        labels = {number: label for label, number in enumerate(classes)}
        pairs = list({pair.image: pair for held in layout.splits.values() for pair in held}.values())
        rows = read_rows(root, pairs, classes)
        meaning = find_meaning(root, (row for listed in rows.values() for row in listed.values()), data)
        objects, wrong = {}, []
        for pair in pairs:
            objects[pair.image] = []
            for line, row in rows[pair.image].items():
                try:
                    objects[pair.image].append(convert(row, labels, meaning))
                except UserError as error:
                    wrong.append(f"{pair.annotation} line {line}: {error}")
        refuse(f"{root}: rows that cannot be used", wrong, "; correct or remove them")
        splits = {
            split: [
                AnnotatedImage(pair.image, pair.name, number, None, objects[pair.image])
                for number, pair in enumerate(held, 1)
            ]
            for split, held in layout.splits.items()
        }
        notes = [*note_count(data, classes), *filter(None, [meaning.note()])]
        remarks = {split: [*layout.remarks(split), *notes] for split in splits}
        maskless = (
            "the rows look like oriented boxes; set task: segment in data.yaml if not" if meaning.oriented else ""
        )
        return Contents(
            tuple(classes.values()),
            tuple(number + 1 for number in classes),
            splits,
            remarks,
            layout.describe(),
            maskless,
        )


def read_rows(root: pathlib.Path, pairs: list[Pair], classes: dict[int, str]) -> dict[pathlib.Path, dict[int, Row]]:
    """Read the rows of each image by line number. Raise UserError for rows that cannot be used."""
    rows, wrong = {}, []
    for image, path, _ in pairs:
        rows[image] = {}
        lines = read_text(path, ROWS, errors="replace").splitlines() if path else []
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    rows[image][number] = read_row(line, classes)
                except UserError as error:
                    wrong.append(f"{path} line {number}: {error}")
            if len(wrong) >= MOST_WRONG:
                break
    refuse(f"{root}: rows that cannot be used", wrong, "; correct or remove them")
    return rows


YOLO_FOLDER = describe_folder(YoloFolder, masks=True)
