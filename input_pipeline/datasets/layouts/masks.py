"""Layouts of images with masks: folders of both for each split, or one pair of folders."""

import itertools
import pathlib

from errors import UserError
from input_pipeline.batch import refuse
from input_pipeline.datasets.layouts.layout import ONLY, Layout, check_files
from input_pipeline.decoding import SUFFIXES, list_images

NEEDS = (
    "SPLIT/images and SPLIT/masks; or images/SPLIT and masks/SPLIT; or images and masks, which are one split; or PNGImages and "
    "PedMasks"
)
KINDS = ("images", "masks", "instances")
PENN_FUDAN = {
    "images": "PNGImages",
    "instances": "PedMasks",
}  # NAME.png and NAME_mask.png, with a number for each pedestrian
SUFFIX = "_mask"  # of a mask's name, after that of its image, where masks have one

Files = dict[str, pathlib.Path]  # those of one example, by their kind
Folders = dict[str, pathlib.Path]  # of one split: images, masks, instances


def find(root: pathlib.Path) -> Layout | None:
    """Recognise a folder; its splits are `Folders`. Files are not looked at."""
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


def find_files(folders: Folders, with_instances: bool) -> list[Files]:
    """The files of each example of a split, sorted by the image's name. Raises UserError for an image without a mask.

    With instances, or where the split has a folder of them and none of masks, masks may be absent altogether.
    """
    images = folders["images"]
    paths = list_images(images)
    if not paths:
        raise UserError(f"{images} holds no image ({' '.join(SUFFIXES)})")
    check_files(images, paths)
    for first, second in itertools.pairwise(paths):
        if first.stem == second.stem:
            raise UserError(f"{first} and {second.name} would share one mask; rename one of them")
    kinds = ["masks"] if "masks" in folders else []
    kinds += ["instances"] if with_instances or (not kinds and "instances" in folders) else []
    places = {kind: folders.get(kind, images.with_name(kind)) for kind in kinds or ["masks"]}
    examples = [
        {"images": path} | {kind: find_mask(place, path.stem) for kind, place in places.items()} for path in paths
    ]
    for kind in places:
        missing = [str(files[kind]) for files in examples if not files[kind].is_file()]
        refuse(f"{images}: {kind} that are missing", missing, "; each image needs a PNG of its own name there")
    return examples


def find_mask(folder: pathlib.Path, stem: str) -> pathlib.Path:
    """Return the mask of the image `stem`: NAME.png, or NAME_mask.png where that is there; neither need be."""
    plain, long = folder / f"{stem}.png", folder / f"{stem}{SUFFIX}.png"
    return long if not plain.exists() and long.exists() else plain


def _list_kinds(place: pathlib.Path) -> Folders:
    return {kind: place / kind for kind in KINDS if (place / kind).is_dir()}
