"""`coco_folder`: boxes and masks in COCO's JSON, prepared from the user's own folder. Nothing is downloaded.

config.data.folder.root is laid out in one of the ways of layouts/coco.py. Images are named by `file_name`, with folders or
without, below the folder of the split's images or below the root; nothing outside the root is read. A split is there where
annotations and images are. Classes stand in the order of their ids, which like the images' ids are kept.
"""

import pathlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.annotations.coco_json import read_instances
from input_pipeline.datasets.detection_folder import Contents, DetectionFolder, describe_folder
from input_pipeline.datasets.layouts.layout import list_below, name_passed_over
from input_pipeline.datasets.layouts.recognition import recognise
from input_pipeline.remarks import name_files


class CocoFolder(DetectionFolder):
    """The tfds builder; see `DetectionFolder`."""

    VERSION = tfds.core.Version("2.0.0")

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        splits = recognise("coco_folder", cls.find_place(folder)).splits.values()
        return [
            *(path for path, _ in splits),
            *(file for images in dict.fromkeys(images for _, images in splits) for file in list_below(images)),
        ]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        root, splits, categories = cls.find_place(folder), {}, {}
        layout = recognise("coco_folder", root)
        for split, (path, images) in layout.splits.items():
            splits[split], categories[path] = read_instances(path, images, root)
        (first, known), *others = categories.items()
        for path, named in others:
            if named != known:
                differ = sorted(dict(known.items() ^ named.items()))
                raise UserError(
                    f"{path} and {first.name} name other categories (ids {', '.join(map(str, differ[:3]))}); "
                    "write the same ones into both"
                )
        named = {image.path for images in splits.values() for image in images}
        folders = {images for _, images in layout.splits.values()}
        others = sorted(path.name for folder in folders for path in list_below(folder) if path not in named)
        passed = name_files("passed over, images that no JSON file names", others) + name_passed_over(named)
        remarks = {split: [*layout.remarks(split), *passed] for split in splits}
        return Contents(tuple(known.values()), tuple(known), splits, remarks, layout.describe())


COCO_FOLDER = describe_folder(CocoFolder, masks=True, image_id=lambda record: int(record["image/id"]))
