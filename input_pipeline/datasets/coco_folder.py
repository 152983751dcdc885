"""`coco_folder`: boxes and masks in COCO's JSON, prepared from the user's own folder. Nothing is downloaded.

config.data.folder.root is ROOT of ROOT/annotations/instances_SPLIT.json (or SPLIT.json, where none is called instances) with
the images in ROOT/SPLIT, ROOT/images/SPLIT or ROOT/images; or of ROOT/SPLIT/_annotations.coco.json with the images next
to it. A split is there where both are. Classes stand in the order of their ids, which like the images' ids are kept.
"""

import pathlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.annotations.coco_json import read_instances
from input_pipeline.datasets.detection_folder import Contents, DetectionFolder, describe_folder, walk
from input_pipeline.decoding import list_images

BESIDE = "_annotations.coco.json"  # the name of annotations next to the images


class CocoFolder(DetectionFolder):
    """The tfds builder; see `DetectionFolder`."""

    VERSION = tfds.core.Version("2.0.0")

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        splits = find_splits(cls.find_place(folder))
        return [file for path, images in splits.values() for file in (path, *walk(images))]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        splits, categories = {}, {}
        for split, (path, images) in find_splits(cls.find_place(folder)).items():
            splits[split], categories[path] = read_instances(path, images)
        (first, known), *others = categories.items()
        for path, named in others:
            if named != known:
                differ = sorted(dict(known.items() ^ named.items()))
                raise UserError(
                    f"{path} and {first.name} name other categories (ids {', '.join(map(str, differ[:3]))}); "
                    "write the same ones into both"
                )
        return Contents(tuple(known.values()), tuple(known), splits)


def find_splits(root: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """The annotations and the folder of the images of each split. Raises UserError where there is none."""
    listed = sorted((root / "annotations").glob("instances_*.json")) or sorted((root / "annotations").glob("*.json"))
    splits = {}
    for path in listed:
        split = path.stem.removeprefix("instances_")
        places = [root / split, root / "images" / split]
        if (root / "images").is_dir() and list_images(root / "images"):
            places.append(root / "images")
        images = next((place for place in places if place.is_dir()), None)
        if images is not None:
            splits[split] = path, images
    for path in sorted(root.glob(f"*/{BESIDE}")):
        splits.setdefault(path.parent.name, (path, path.parent))
    if not splits:
        found = f"has annotations for {', '.join(path.stem for path in listed)} but no" if listed else "has no"
        raise UserError(
            f"config.data.folder.root={str(root)!r} {found} images; it needs annotations/instances_SPLIT.json and the images "
            f"in SPLIT, images/SPLIT or images, or SPLIT/{BESIDE} with the images next to it"
        )
    return splits


COCO_FOLDER = describe_folder(CocoFolder, masks=True, image_id=lambda record: int(record["image/id"]))
