"""Layouts of images with masks, with folders of both for each split, or one pair of folders."""

import pathlib

from input_pipeline.datasets.layouts.layout import ONLY, Layout

NEEDS = (
    "SPLIT/images and SPLIT/masks; or images/SPLIT and masks/SPLIT; or images and masks (as one split); or PNGImages and "
    "PedMasks"
)
KINDS = ("images", "masks", "instances")
PENN_FUDAN = {
    "images": "PNGImages",
    "instances": "PedMasks",
}  # NAME.png and NAME_mask.png, with a number for each pedestrian

Folders = dict[str, pathlib.Path]  # of one split: images, masks, instances


def find(root: pathlib.Path) -> Layout | None:
    """Recognise a folder. Each split is `Folders`. Files are not examined."""
    splits = {path.parent.name: _list_kinds(path.parent) for path in sorted(root.glob("*/images")) if path.is_dir()}
    if splits:
        return Layout("images and masks of each split", f"{next(iter(splits))}/images", splits)
    own = _list_kinds(root)
    if len(own) > 1 and "images" in own:
        names = sorted(path.name for path in own["images"].iterdir() if path.is_dir() and path.name[0] != ".")
        splits = {
            name: {kind: place / name for kind, place in own.items() if (place / name).is_dir()} for name in names
        }
        splits = {name: folders for name, folders in splits.items() if len(folders) > 1}
        if splits:
            first = next(iter(splits))
            return Layout("folders of splits in images and in masks", f"images/{first}", splits)
        others = " and ".join(kind for kind in own if kind != "images")
        return Layout("images and masks in one pair of folders", f"images and {others}", {ONLY: own})
    if all((root / name).is_dir() for name in PENN_FUDAN.values()):
        folders = {kind: root / name for kind, name in PENN_FUDAN.items()}
        return Layout("PennFudan's, numbered pedestrians in masks", "PNGImages and PedMasks", {ONLY: folders})
    return None


def _list_kinds(place: pathlib.Path) -> Folders:
    return {kind: place / kind for kind in KINDS if (place / kind).is_dir()}
