"""Layouts of Ultralytics' and Darknet's text, with one file of rows per image in folders of labels or next to the images.

The data file names the splits `train`, `val` and `test`. Each is a folder, a text file with an image on each line, or a list of
these. A split that is a whole folder gets the folder's name, such as `valid` or `val2017`. Labelled images in folders that the
data file does not name are further splits, named after their folder. Of paths from another machine only the end counts:
`/home/ann/set/images/train` is `images/train` here. Nothing outside the folder is read.
"""

import itertools
import os
import pathlib
from collections.abc import Sequence

from errors import UserError
from files import read_text
from input_pipeline.annotations.yolo_data import DataFile, find_data_file
from input_pipeline.batch import count, refuse
from input_pipeline.datasets.holdout import name_plainly
from input_pipeline.datasets.layouts.layout import (
    IMAGE_FOLDERS,
    Layout,
    Pair,
    Place,
    describe_other_files,
    group_splits,
    index_places,
    list_below,
    list_texts,
    name_in_split,
    place_of,
    walk_folders,
)
from limits import ROWS

NEEDS = (
    "images/SPLIT and labels/SPLIT, or SPLIT/images and SPLIT/labels, or NAME.txt next to each NAME.jpg; or a data.yaml whose "
    "train and val name folders or lists of images in it"
)
LABELS = "labels"
KINDS = IMAGE_FOLDERS | {LABELS, "obj_train_data"}
NO_LABELS = ("classes.txt",)
LOOKED_AT = 1 << 12  # bytes at the beginning of a text that are examined for rows of labels
DARKNET = "data"  # Darknet's folder of datasets: paths in obj.data begin with it, but archives leave it out
Parts = tuple[str, ...]  # parts of a path


class Files:
    """The images and the files of labels below a folder, by their place."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.images = index_places(list_below(root), root, KINDS)
        texts = [path for folder in walk_folders(root) for path in list_texts(folder, ".txt")]
        texts = [path for path in texts if path.name not in NO_LABELS]
        # A folder without labels of any image holds other texts, unless its name is that of labels.
        folders = {path.parent for path in texts if self.place(path) in self.images}
        folders |= {path.parent for path in texts if LABELS in path.relative_to(root).parts[:-1]}
        self.labels = index_places(
            (path for path in texts if path.parent in folders and self._has_rows(path)), root, KINDS
        )

    def place(self, path: pathlib.Path) -> Place:
        return place_of(path, self.root, KINDS)

    def pair(self, image: pathlib.Path, name: str) -> Pair:
        labels = self.labels.get(self.place(image))
        return Pair(image, labels[0] if labels else None, name)

    def _has_rows(self, path: pathlib.Path) -> bool:
        """Return whether a text file holds labels. It has an image's name, or its first word is a number."""
        if self.place(path) in self.images:
            return True
        with path.open("rb") as file:
            words = file.read(LOOKED_AT).decode("utf-8-sig", "replace").split()
        first = words[0] if words else "0"
        return first.lstrip("-").replace(".", "", 1).isdigit()


def find(root: pathlib.Path) -> Layout | None:
    """Recognise a folder. Each split is a list of `Pair`. Raise UserError for labels whose image is unclear."""
    files = Files(root)
    if not files.labels:
        folders = [folder for folder in walk_folders(root) if LABELS in folder.relative_to(root).parts]
        if folders and files.images:
            raise UserError(f"{folders[-1]} has no labels for any image; write NAME.txt for each image NAME.jpg there")
        return None
    data = find_data_file(root)
    data_name = data.path.name if data else ""
    named, said, lists = _read_splits(files, data) if data else ({}, [], [])
    notes = {"": said}
    covered = {files.place(image) for images in named.values() for image, _ in images}
    taken = {_first(place) for place in covered}
    left = {place for place in files.labels if _first(place) not in taken}
    named = _name_as_folders(files, named, {_first(place) for place in left})
    used = covered | left
    unlisted = [paths[0].name for place, paths in files.labels.items() if place not in used]
    if unlisted:
        said += count(
            unlisted,
            *(
                f"{what} skipped (images that {data_name} does not name)"
                for what in ("label file is", "label files are")
            ),
        )
    _check(files, used)
    for split, places in group_splits(root, left).items():
        firsts = {_first(place) for place in places}
        together = sorted(place for place in files.images if _first(place) in firsts)
        if split in named:
            said.append(f"{split}/ is not a split: {data_name} defines {split} with other images")
            continue
        named[split] = [(path, name_in_split(place, path)) for place in together for path in files.images[place]]
    # In the order of the folders, not of the data file: earlier versions read only folders, and fingerprints include the order.
    splits = {split: [files.pair(*image) for image in images] for split, images in sorted(named.items())}
    for split in [split for split, pairs in splits.items() if not any(pair.annotation for pair in pairs)]:
        said.append(f"{split} is not a split: none of its images has a label file ({len(splits.pop(split))})")
    for split, pairs in splits.items():
        bare = [pair.name for pair in pairs if not pair.annotation]
        notes[split] = count(
            bare,
            "image has no label file and counts as an image without objects",
            "images have no label file and count as images without objects",
        )
    said += describe_other_files(pair.image for pairs in splits.values() for pair in pairs)
    if not splits:
        raise UserError(f"{root}: none of the splits has labels ({'; '.join(said)})")
    every = itertools.chain.from_iterable(splits.values())
    image, annotation = next((pair.image, pair.annotation) for pair in every if pair.annotation)
    together = image.parent == annotation.parent
    what = "YOLO's labels next to the images" if together else "YOLO's images and labels in folders"
    why = f"{annotation.relative_to(root)}, whose image is {image.relative_to(root)}"
    if covered:
        what, why = f"{what}, splits by {data_name}", f"{why}, and {data_name}"
    return Layout(what, why, splits, files=(*([data.path] if data else ()), *lists), notes=notes)


def _first(place: Place) -> Parts:
    return place[0][:1]


def _check(files: Files, used: set[Place]) -> None:
    """Raise UserError for labels without an image, and for two files of one place."""
    missing = [str(files.labels[place][0]) for place in files.labels if place not in files.images]
    refuse(f"{files.root}: label files without their image", missing, "; add the images, or remove the label files")
    for places, what in (
        (files.images, "images that would share one label file"),
        (files.labels, "two label files of one image"),
    ):
        double = [" and ".join(map(str, places[place])) for place in sorted(used) if len(places.get(place, ())) > 1]
        refuse(f"{files.root}: {what}", double, "; rename or remove one of them")


Named = list[tuple[pathlib.Path, str]]  # images with their names in the split


def _read_splits(files: Files, data: DataFile) -> tuple[dict[str, Named], list[str], list[pathlib.Path]]:
    """Read the splits of a data file. Return the images of each, notes on missing ones, and the lists that were read."""
    splits, notes, lists = {}, [], []
    everything = [path for paths in files.images.values() for path in paths]
    for split, entries in data.splits.items():
        images, absent, folders = [], [], []
        for entry in entries:
            place = _resolve(files.root, entry, data.prefix)
            if place is None:
                absent.append(entry)
            elif place.is_file():
                lists.append(place)
                images += _read_list(place, files.root, everything, data.prefix)
            else:
                held = [path for path in everything if path.is_relative_to(place)]
                absent += [] if held else [entry]
                folders.append(place)
                images += held
        if absent and images:
            raise UserError(
                f"{data.path}: {split} names {absent[0]!r}, which is missing or holds no images; add it, or correct the file"
            )
        if not images:
            notes.append(f"{data.path.name} names {split}: {entries[0]}, which is missing or holds no images")
            continue
        if len(set(images)) < len(images):
            raise UserError(
                f"{data.path}: {split} names images more than once: {len(images) - len(set(images))}; name each only once"
            )
        top = (
            folders[0] if len(entries) == len(folders) == 1 else os.path.commonpath([image.parent for image in images])
        )
        splits[split] = [(image, image.relative_to(top).as_posix()) for image in images]
    return splits, notes, lists


def _name_as_folders(files: Files, named: dict[str, Named], left: set[Parts]) -> dict[str, Named]:
    """Rename a data file's split to its folder if that is another name for it, such as `valid` for `val`.

    Earlier versions read only folders, and their runs use that name. `left` are folders that become splits of their own.
    """
    own: dict[Parts, set[pathlib.Path]] = {}
    for place, paths in files.images.items():
        own.setdefault(_first(place), set()).update(paths)
    names = {}
    for split, images in named.items():
        held = {path for path, _ in images}
        folder = next((first[0] for first, paths in own.items() if first and paths == held), split)
        same = name_plainly(folder) == name_plainly(split)
        names[split] = folder if same and folder not in named and (split,) not in left else split
    return {names[split]: images for split, images in named.items()}


def _split_path(entry: str) -> tuple[Parts, bool]:
    """Return the parts of a path, without leading "..", and whether it is absolute."""
    entry = entry.replace("\\", "/")
    absolute = entry.startswith("/") or entry[1:2] == ":"
    parts = [part for part in entry.split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        del parts[0]
    return tuple(parts), absolute


def _resolve(root: pathlib.Path, entry: str, prefix: str) -> pathlib.Path | None:
    """Return the file or folder in `root` that an entry of a data file names, or None."""
    parts, absolute = _split_path(entry)
    (before, _), below = _split_path(prefix), [()]
    if absolute:
        # The other machine's part ends with the folder's own name, or with that of the data file's `path`.
        below = [parts[i + 1 :] for i, part in enumerate(parts) if part in (root.resolve().name, *before[-1:])] or [
            parts
        ]
    else:
        below = [(*before, *parts), parts]
        below += [parts[1:]] if parts[:1] == (DARKNET,) else []
    for own in below:
        path = root.joinpath(*own)
        if ".." not in own and os.path.exists(path):  # pathlib raises OSError for a name that is too long
            return path
    return None


def _read_list(
    path: pathlib.Path, root: pathlib.Path, images: Sequence[pathlib.Path], prefix: str
) -> list[pathlib.Path]:
    """Read a list of images, one on each line. Raise UserError for lines that are not an image of the folder."""
    known = {image.relative_to(root).parts: image for image in images}
    lines = [line.strip() for line in read_text(path, ROWS, errors="replace").splitlines() if line.strip()]
    before = [path.parent.relative_to(root).parts, _split_path(prefix)[0], ()]

    def look(line: str, base: Parts, dropped: int) -> pathlib.Path | None:
        return known.get((*base, *_split_path(line)[0][dropped:]))

    # All lines are relative to the same folder. The first line whose image is found shows which.
    ways = [(base, dropped) for dropped in range(12) for base in before]
    base, dropped = next((way for line in lines[:10] for way in ways if look(line, *way)), ((), 0))
    found = [look(line, base, dropped) for line in lines]
    wrong = [line for line, image in zip(lines, found, strict=True) if image is None]
    refuse(f"{path}: lines that do not name an image in {root}", wrong, "; add the images, or remove the lines")
    return [image for image in found if image is not None]
