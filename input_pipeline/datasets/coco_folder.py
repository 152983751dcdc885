"""`coco_folder`: boxes and masks in COCO's JSON, prepared from the user's own folder. Nothing is downloaded.

config.data.folder.root is ROOT of ROOT/annotations/instances_SPLIT.json (or SPLIT.json, where none is called instances) with
the images in ROOT/SPLIT, ROOT/images/SPLIT or ROOT/images; or of ROOT/SPLIT/_annotations.coco.json with the images beside
it. A split is there where both are. Classes stand in the order of their ids, which like the images' ids are kept.
"""

import json
import math
import pathlib
import reprlib

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.batch import refuse
from input_pipeline.datasets.detection_folder import (
    Annotation,
    Contents,
    DetectionFolder,
    Picture,
    check_names,
    is_number,
    is_polygon,
    is_whole,
    walk,
)
from input_pipeline.decoding import list_images

BESIDE = "_annotations.coco.json"  # the name where annotations lie beside the images


class CocoFolder(DetectionFolder):
    """The tfds builder; see `DetectionFolder`."""

    VERSION = tfds.core.Version("1.0.0")

    @classmethod
    def list_files(cls, folder: ConfigDict) -> list[pathlib.Path]:
        splits = find_splits(cls.find_place(folder))
        return [file for path, images in splits.values() for file in (path, *walk(images))]

    @classmethod
    def read(cls, folder: ConfigDict) -> Contents:
        splits, categories = {}, {}
        for split, (path, images) in find_splits(cls.find_place(folder)).items():
            splits[split], categories[path] = read_json(path, images)
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
            f"in SPLIT, images/SPLIT or images, or SPLIT/{BESIDE} with the images beside it"
        )
    return splits


def read_json(path: pathlib.Path, images: pathlib.Path) -> tuple[list[Picture], dict[int, str]]:
    """The pictures in the file's order, and the categories' names by id, in its order. Raises UserError."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} cannot be parsed as JSON ({error}); bring it whole") from error
    for key in ("images", "annotations", "categories"):
        held = content.get(key) if isinstance(content, dict) else None
        if not isinstance(held, list) or not all(isinstance(entry, dict) for entry in held):
            raise UserError(
                f"{path} has no list {key!r}; COCO's instances files hold images, annotations and categories"
            )
    categories = _read_categories(path, content["categories"])
    pictures = _read_images(path, images, content["images"])
    labels = {category_id: label for label, category_id in enumerate(categories)}
    wrong = []
    for number, entry in enumerate(content["annotations"]):
        problem = _find_mistake(entry, pictures, categories)
        if problem:
            wrong.append(f"annotation {entry.get('id', f'at place {number + 1}')}: {problem}")
            continue
        left, top, width, height = map(float, entry["bbox"])  # so that sums too large are infinite, not an error
        area = entry.get("area")
        pictures[entry["image_id"]].objects.append(
            Annotation(
                box=(top, left, top + height, left + width),
                label=labels[entry["category_id"]],
                crowd=bool(entry.get("iscrowd", 0)),
                area=area if is_number(area) and math.isfinite(area) else None,
                segmentation=entry.get("segmentation") or (),
            )
        )
    refuse(f"{path}: annotations that cannot be used", wrong, "; correct them, or take them out")
    return list(pictures.values()), categories


def _read_categories(path: pathlib.Path, entries: list[dict]) -> dict[int, str]:
    if not all(is_whole(entry.get("id")) and isinstance(entry.get("name"), str) for entry in entries):
        raise UserError(f"{path} has a category without an id (a whole number of int64) or a name; write both")
    entries = sorted(entries, key=lambda entry: entry["id"])
    ids = [entry["id"] for entry in entries]
    if len(set(ids)) < len(ids):
        twice = next(number for number in ids if ids.count(number) > 1)
        raise UserError(f"{path} has the category id {twice} more than once; give each category its own")
    names = check_names([entry["name"] for entry in entries], path)
    return dict(zip(ids, names, strict=True))


def _read_images(path: pathlib.Path, folder: pathlib.Path, entries: list[dict]) -> dict[int, Picture]:
    """The pictures by id, without their objects."""
    if not entries:
        raise UserError(f"{path} names no image; write them into 'images', or take the file away")
    pictures, names, wrong = {}, set(), []
    for number, entry in enumerate(entries):
        image_id, name = entry.get("id"), entry.get("file_name")
        size = entry.get("height"), entry.get("width")
        if not is_whole(image_id) or not isinstance(name, str):
            wrong.append(f"the image at place {number + 1} has no id (a whole number of int64) or no file_name")
        elif image_id in pictures:
            wrong.append(f"the image id {image_id} stands there more than once")
        elif name in names:
            wrong.append(f"the file {name} stands there more than once")
        elif size != (None, None) and not all(map(is_whole, size)):
            wrong.append(f"the image {image_id} has no height and width in whole numbers")
        elif not (folder / name).is_file():
            wrong.append(f"{folder / name} is missing")
        else:
            pictures[image_id] = Picture(folder / name, name, image_id, None if size == (None, None) else size, [])
        names.add(name)
    refuse(f"{path}: images that cannot be used", wrong, "; bring the files, or correct the list")
    return pictures


def _find_mistake(entry: dict, pictures: dict[int, Picture], categories: dict[int, str]) -> str:
    """What makes an annotation unusable, or ""."""
    image_id, category_id, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not isinstance(image_id, int) or image_id not in pictures:
        return f"there is no image {image_id!r}"
    if not isinstance(category_id, int) or category_id not in categories:
        return f"there is no category {category_id!r}"
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return f"bbox is {reprlib.repr(box)}, not four numbers of float64"
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd is {reprlib.repr(entry['iscrowd'])}, not 0 or 1"
    segmentation = entry.get("segmentation") or []
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        return ""
    if not isinstance(segmentation, list) or not all(map(is_polygon, segmentation)):
        return "segmentation is neither polygons [[x, y, x, y, ...]] nor run lengths"
    return ""
