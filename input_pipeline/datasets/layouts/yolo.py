"""Layouts of Ultralytics' and Darknet's text: a file of rows of each image's name, in folders of labels or next to the images.

The splits are those that the data file names, `train`, `val` and `test`: a folder, a text file with an image on each line, or a
list of these; one that is a whole folder has the folder's name, `valid` or `val2017`. Labelled images in folders that the data
file does not name are splits by the name of their folder. Paths of another machine are taken by their end:
`/home/ann/set/images/train` is `images/train` here. Nothing outside the folder is read.
"""

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
    group_splits,
    index_places,
    list_below,
    list_texts,
    name_in_split,
    name_passed_over,
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
LOOKED_AT = 1 << 12  # bytes of a text that show whether it holds rows of labels
DARKNET = "data"  # the folder in which Darknet has a data set, which obj.data says and archives leave out
Parts = tuple[str, ...]  # of a path


class Files:
    """The images and the files of labels below a folder, by their place."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.images = index_places(list_below(root), root, KINDS)
        texts = [path for folder in walk_folders(root) for path in list_texts(folder, ".txt")]
        texts = [path for path in texts if path.name not in NO_LABELS]
        # A folder without a label of any image holds something else, unless its name says that they are labels.
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
        """Whether a text is one of labels: it is that of an image, or its first word is a number."""
        if self.place(path) in self.images:
            return True
        with path.open("rb") as file:
            words = file.read(LOOKED_AT).decode("utf-8-sig", "replace").split()
        first = words[0] if words else "0"
        return first.lstrip("-").replace(".", "", 1).isdigit()


def find(root: pathlib.Path) -> Layout | None:
    """Recognise a folder; its splits are lists of `Pair`. Raises UserError for labels whose image is not clear."""
    files = Files(root)
    if not files.labels:
        folders = [folder for folder in walk_folders(root) if LABELS in folder.relative_to(root).parts]
        if folders and files.images:
            raise UserError(f"{folders[-1]} has no file for any image; an image's labels are NAME.txt there")
        return None
    data = find_data_file(root)
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
                f"{what} of images that {data.path.name} does not name"
                for what in ("file of labels is", "files of labels are")
            ),
        )
    _check(files, used)
    for split, places in group_splits(root, left).items():
        firsts = {_first(place) for place in places}
        together = sorted(place for place in files.images if _first(place) in firsts)
        if split in named:
            said.append(f"{split}/ is not a split: {data.path.name} names other images as {split}")
            continue
        named[split] = [(path, name_in_split(place, path)) for place in together for path in files.images[place]]
    # In the order of the folders, not of the data file: it is part of the fingerprint of runs that looked at folders alone.
    splits = {split: [files.pair(*image) for image in images] for split, images in sorted(named.items())}
    for split in [split for split, pairs in splits.items() if not any(pair.annotation for pair in pairs)]:
        said.append(f"{split} is not a split: no file of labels for its images ({len(splits.pop(split))})")
    for split, pairs in splits.items():
        bare = [pair.name for pair in pairs if not pair.annotation]
        notes[split] = count(
            bare,
            "image has no file of labels, and counts as an image without objects",
            "images have no file of labels, and count as images without objects",
        )
    said += name_passed_over(pair.image for pairs in splits.values() for pair in pairs)
    if not splits:
        raise UserError(f"{root}: no split is left of the labels ({'; '.join(said)})")
    example = next(pair for pairs in splits.values() for pair in pairs if pair.annotation)
    together = example.image.parent == example.annotation.parent
    what = "YOLO's labels next to the images" if together else "YOLO's images and labels in folders"
    why = f"{example.annotation.relative_to(root)}, whose image is {example.image.relative_to(root)}"
    if covered:
        what, why = f"{what}, splits by {data.path.name}", f"{why}, and {data.path.name}"
    return Layout(what, why, splits, files=(*([data.path] if data else ()), *lists), notes=notes)


def _first(place: Place) -> Parts:
    return place[0][:1]


def _check(files: Files, used: set[Place]) -> None:
    """Raises UserError for labels without an image, and for two files of one place."""
    missing = [str(files.labels[place][0]) for place in files.labels if place not in files.images]
    refuse(
        f"{files.root}: images that are missing for files of labels", missing, "; bring them, or take the labels away"
    )
    for places, what in (
        (files.images, "images that would share one file of labels"),
        (files.labels, "two files of one image's labels"),
    ):
        double = [" and ".join(map(str, places[place])) for place in sorted(used) if len(places.get(place, ())) > 1]
        refuse(f"{files.root}: {what}", double, "; rename one of them, or take it away")


Named = list[tuple[pathlib.Path, str]]  # images with their names in the split


def _read_splits(files: Files, data: DataFile) -> tuple[dict[str, Named], list[str], list[pathlib.Path]]:
    """Read the splits of a data file: the images of each, what it names that is not there, and the lists that were read."""
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
                f"{data.path}: {split} names {absent[0]!r}, which is not there or holds no image; bring it, or correct the file"
            )
        if not images:
            notes.append(f"{data.path.name} names {split}: {entries[0]}, which is not there or holds no image")
            continue
        if len(set(images)) < len(images):
            raise UserError(
                f"{data.path}: {split} names images more than once: {len(images) - len(set(images))}; name each once"
            )
        top = (
            folders[0] if len(entries) == len(folders) == 1 else os.path.commonpath([image.parent for image in images])
        )
        splits[split] = [(image, image.relative_to(top).as_posix()) for image in images]
    return splits, notes, lists


def _name_as_folders(files: Files, named: dict[str, Named], left: set[Parts]) -> dict[str, Named]:
    """Name a split of the data file as its folder where that is another name for the same images: `valid` for `val`.

    Runs of versions that looked at folders alone know it by that name. `left` are folders that become splits of their own.
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
    """Return the parts of a path, and whether it is absolute; what leads upwards at its beginning is left out."""
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
        # The folder's own name, or that of the data file's `path`, ends what is of the other machine.
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
    """Read a list of images, one on each line. Raises UserError for lines that name no image of the folder."""
    known = {image.relative_to(root).parts: image for image in images}
    lines = [line.strip() for line in read_text(path, ROWS, errors="replace").splitlines() if line.strip()]
    before = [path.parent.relative_to(root).parts, _split_path(prefix)[0], ()]

    def look(line: str, base: Parts, dropped: int) -> pathlib.Path | None:
        return known.get((*base, *_split_path(line)[0][dropped:]))

    # All lines are relative to the same folder, which the first one that can be found shows.
    ways = [(base, dropped) for dropped in range(12) for base in before]
    base, dropped = next((way for line in lines[:10] for way in ways if look(line, *way)), ((), 0))
    found = [look(line, base, dropped) for line in lines]
    wrong = [line for line, image in zip(lines, found, strict=True) if image is None]
    refuse(f"{path}: lines that name no image in {root}", wrong, "; bring the images, or take the lines away")
    return found
