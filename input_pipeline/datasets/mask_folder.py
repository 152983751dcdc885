"""The files of an `image_mask` folder, which are its classes file and the images of a split with their masks.

A mask has its image's name, or that name and `_mask`. The suffix, its case and Unicode's normal form do not matter: some file
systems write an accented letter as two characters.
"""

import itertools
import pathlib
import unicodedata
from collections.abc import Collection, Iterable

from errors import UserError
from files import read_text
from input_pipeline.annotations.annotated_image import check_letters
from input_pipeline.batch import IGNORE, refuse
from input_pipeline.datasets.layouts.masks import Folders
from input_pipeline.decoding import list_images, list_others
from input_pipeline.remarks import name_files, name_others
from limits import NAMES
from wording import count

REMEDY = "write one class name per line into it"
SUFFIX = "_mask"  # optional end of a mask's name, after its image's name
Files = dict[str, pathlib.Path]  # the files of one example by their folder: images, masks, instances
Colours = tuple[tuple[int, int, int], ...]
OBJECT_CLASSES = ("background", "object")  # without masks and a classes file


def read_classes(path: pathlib.Path) -> tuple[tuple[str, ...], Colours | None]:
    """Return the names in a classes file, in order, and their colours if the file has them."""
    try:
        text = read_text(path, NAMES, remedy=REMEDY)
    except FileNotFoundError as error:
        raise UserError(f"{error}; {REMEDY}") from None
    lines = [line.split() for line in text.splitlines() if line.strip()]
    coloured = [
        line for line in lines if len(line) >= 4 and all(part.isdigit() and int(part) < 256 for part in line[-3:])
    ]
    if coloured and len(coloured) < len(lines):
        line = next(line for line in lines if line not in coloured)
        raise UserError(
            f"{path}: {' '.join(line)!r} has no colour, but other lines do; write `name red green blue` on each line"
        )
    names = tuple(" ".join(line[:-3] if coloured else line) for line in lines)
    colours = tuple((int(red), int(green), int(blue)) for *_, red, green, blue in coloured)
    if not 2 <= len(names) <= IGNORE:
        raise UserError(f"{path} names {count(len(names), 'class')}; write 2 to {IGNORE}, including the background")
    check_letters(names, path)
    for what, values in (("name", names), ("colour", colours)):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise UserError(
                f"{path}: the {what} {sorted(twice)[0]!r} is listed more than once; give each class its own"
            )
    return names, colours or None


def name_classes(path: pathlib.Path, with_masks: bool) -> tuple[tuple[str, ...], Colours | None]:
    """Read the classes like `read_classes`. Without masks there are two classes, and the file is optional."""
    if with_masks:
        return read_classes(path)
    names, _ = read_classes(path) if path.exists() else (OBJECT_CLASSES, None)
    if len(names) != 2:
        raise UserError(
            f"{path} names {count(len(names), 'class')}, but without masks there are two (without and with an object); "
            "name these two, or add the masks"
        )
    return names, None


def find_files(folders: Folders, with_instances: bool) -> tuple[list[Files], list[str]]:
    """Return the files of each example of a split, sorted by the image's name, and remarks on skipped files.

    All masks may be missing where `with_instances` is set, or where the split has a folder of instances and none of masks. Raise
    UserError for an image without a mask or with two.
    """
    images = folders["images"]
    paths, remarks = list_images(images), name_others(list_others(images))
    if not paths:
        raise UserError("; ".join([f"{images} holds no images", *remarks]))
    by_name = sorted(paths, key=find_name)
    for first, second in itertools.pairwise(by_name):
        if find_name(first) == find_name(second):
            raise UserError(f"{first} and {second.name} would share one mask; rename one of them")
    kinds = ["masks"] if "masks" in folders else []
    kinds += ["instances"] if with_instances or (not kinds and "instances" in folders) else []
    examples: list[Files] = [{"images": path} for path in paths]
    for kind in kinds or ["masks"]:
        folder = folders.get(kind, images.with_name(kind))
        masks = _find_masks(folder, {find_name(path) for path in paths}) if folder.is_dir() else {}
        missing = [str(folder / f"{path.stem}.png") for path in paths if find_name(path) not in masks]
        refuse(
            f"{images}: missing {kind}",
            missing,
            "; add one for each image, with its name or NAME_mask",
        )
        for files in examples:
            files[kind] = masks.pop(find_name(files["images"]))
        remarks += name_files(f"skipped ({kind} without an image)", _name_all(masks.values()))
        remarks += name_others(list_others(folder))
    return examples, remarks


def _find_masks(folder: pathlib.Path, names: Collection[str]) -> Files:
    """Return the masks in a folder by the name that they share with their image, one of `names`, alone or with SUFFIX.

    Raise UserError where two have the same.
    """
    masks: Files = {}
    for path in list_images(folder):
        name = find_name(path)
        name = name if name in names else name.removesuffix(SUFFIX)
        other = masks.setdefault(name, path)
        if other != path:
            raise UserError(f"{other} and {path.name} would be masks of the same image; remove one of them")
    return masks


def find_name(path: pathlib.Path) -> str:
    """Return the name that an image and its mask share, without suffix and in Unicode's normal form C."""
    return unicodedata.normalize("NFC", path.stem)


def _name_all(paths: Iterable[pathlib.Path]) -> list[str]:
    return sorted(path.name for path in paths)
