"""Layouts of COCO's JSON, with one file per split in annotations/, next to the split's images, or in the folder itself."""

import os
import pathlib

from errors import UserError
from input_pipeline.datasets.layouts.layout import ONLY, Layout, keep_files, list_texts
from input_pipeline.decoding import list_images

NEXT_TO_IMAGES = "_annotations.coco.json"  # the name of annotations next to the images
NEEDS = (
    "annotations/instances_SPLIT.json and the images in SPLIT, images/SPLIT or images; or "
    f"SPLIT/{NEXT_TO_IMAGES} with the images next to it; or SPLIT.json next to the folder of the images"
)
KEYS = (b'"annotations"', b'"images"')  # COCO's files have both, at least one of them in the first or last bytes
LOOKED_AT = 1 << 16  # bytes


def find(root: pathlib.Path) -> Layout | None:
    """Recognise a folder. Each split is a JSON file and a folder of images. Raise UserError for annotations alone."""
    own = root / "annotations"
    listed = _list_json(own)
    listed = [path for path in listed if path.name.startswith("instances_")] or listed
    splits = {}
    for path in listed:
        split = path.stem.removeprefix("instances_")
        images = _find_images(root, split)
        if images is not None:
            splits[split] = path, images
    what = "COCO's, JSON in annotations/"
    annotations = keep_files(path / NEXT_TO_IMAGES for path in root.glob("*") if os.path.lexists(path / NEXT_TO_IMAGES))
    for path in annotations:
        splits.setdefault(path.parent.name, (path, path.parent))
    if annotations:
        what = "COCO's JSON next to the images"
    if not splits and not listed:
        what = "COCO's JSON in the folder itself"
        for path in _list_json(root):
            split = ONLY if path.name == NEXT_TO_IMAGES else path.stem.removeprefix("instances_")
            images = root if path.name == NEXT_TO_IMAGES else _find_images(root, split)
            images = root if images is None and list_images(root) else images
            if images is not None and _is_coco(path):
                splits[split] = path, images
    if splits:
        path, images = next(iter(splits.values()))
        place = "." if images == root else images.relative_to(root)
        return Layout(what, f"{path.relative_to(root)}, whose images are in {place}", splits)
    if listed:
        raise UserError(
            f"config.data.folder.root={str(root)!r} has annotations ({', '.join(path.stem for path in listed)}) but no images; "
            f"it needs {NEEDS}"
        )
    return None


def _list_json(folder: pathlib.Path) -> list[pathlib.Path]:
    return list_texts(folder, ".json") if folder.is_dir() else []


def _find_images(root: pathlib.Path, split: str) -> pathlib.Path | None:
    """Return the folder of a split's images, its own or the one of all images."""
    shared = root / "images"
    for place in (root / split, shared / split):
        if place.is_dir():
            return place
    return shared if shared.is_dir() and any(shared.iterdir()) else None


def _is_coco(path: pathlib.Path) -> bool:
    """Return whether a JSON file may be COCO's, judged by its first and last bytes (all of a small file)."""
    with path.open("rb") as file:
        ends = file.read(LOOKED_AT)
        file.seek(max(0, path.stat().st_size - LOOKED_AT))
        ends += file.read()
        whole = file.tell() <= 2 * LOOKED_AT
    return (all if whole else any)(key in ends for key in KEYS)
