"""The common part of layouts. It finds the files below a folder, and pairs images with annotations.

An image and its annotation have the same place: the folders in the path, without those that only name a kind of file, and the
name without its suffix. `train/images/a.jpg` and `train/labels/a.txt` both have the place (train, a). So have
`images/train/a.jpg` and `labels/train/a.txt`, or `train/a.jpg` and `train/a.txt`. The first folder of a place names the split.
"""

import dataclasses
import functools
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from errors import UserError
from input_pipeline.batch import SHOWN, refuse
from input_pipeline.decoding import list_images, list_others
from input_pipeline.remarks import name_others

ONLY = "train"  # the name of the only split of a folder without splits
SPLIT = re.compile(r"(train|trainval|val|valid|validation|test|dev|eval)(ing)?[-_]?\d*", re.IGNORECASE)
SKIPPED = ("__MACOSX",)  # folders that archives add
DARKNET = (".data", ".names")  # suffixes of Darknet's text files
IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages", "pngimages"})

Place = tuple[tuple[str, ...], str]  # folders, and the name without its suffix


class Pair(NamedTuple):
    """An image and its annotation."""

    image: pathlib.Path
    annotation: pathlib.Path | None  # None: an image without annotation, which has no objects
    name: str  # the image's path below the folder of its split


@dataclasses.dataclass(frozen=True)
class Layout:
    """A folder's layout as recognised. The format decides the content of `splits` for each split."""

    what: str  # the layout, in a few words
    why: str  # the evidence for it
    splits: dict[str, Any]
    files: tuple[pathlib.Path, ...] = ()  # files that list the files of a split
    notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # remarks on each split, and under "" on all

    def describe(self) -> str:
        """Return the layout and the reason in one line."""
        return f"layout: {self.what}; found {self.why}"

    def remarks(self, split: str) -> list[str]:
        """Return the remarks on skipped files, one line each."""
        return [*self.notes.get("", ()), *self.notes.get(split, ())]


def walk_folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a folder and all folders below it, sorted. Links are followed, but no folder is entered from inside itself."""
    seen = set()
    for place, folders, _ in os.walk(root, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in SKIPPED)
        yield pathlib.Path(place)


def list_texts(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    """List the files of a folder with `suffix` in any case, sorted. Hidden files are left out."""
    return keep_files(path for path in folder.iterdir() if path.suffix.lower() == suffix and path.name[0] != ".")


def keep_files(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Return the files among `paths`, sorted, without the folders.

    Raise UserError for pipes, because reading them would wait forever, and for broken links.
    """
    named = sorted(paths)
    files = [path for path in named if path.is_file()]
    if len(files) < len(named):
        odd = [str(path) for path in named if not path.is_file() and not path.is_dir()]
        refuse("broken links or pipes in the place of files", odd, "; replace them by files, or remove them")
    return files


def list_below(root: pathlib.Path) -> list[pathlib.Path]:
    """List the images in a folder and in all folders below it."""
    return [path for folder in walk_folders(root) for path in list_images(folder)]


def describe_other_files(images: Iterable[pathlib.Path]) -> list[str]:
    """Return remarks on files among the images that are not images."""
    folders = sorted({path.parent for path in images})
    return name_others(path for folder in folders for path in list_others(folder) if path.suffix not in DARKNET)


def place_of(path: pathlib.Path, root: pathlib.Path, kinds: frozenset[str]) -> Place:
    """Return the place of a file below `root`. `kinds` are the folders, in lower case, that do not belong to it."""
    return _list_folders(path.parent, root, kinds), unicodedata.normalize("NFC", path.stem)


@functools.lru_cache(maxsize=1024)  # one folder holds many files
def _list_folders(folder: pathlib.Path, root: pathlib.Path, kinds: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in folder.relative_to(root).parts if name.lower() not in kinds)


def index_places(
    paths: Iterable[pathlib.Path], root: pathlib.Path, kinds: frozenset[str]
) -> dict[Place, list[pathlib.Path]]:
    """Group files by their place."""
    places: dict[Place, list[pathlib.Path]] = {}
    for path in paths:
        places.setdefault(place_of(path, root, kinds), []).append(path)
    return places


def group_splits(root: pathlib.Path, places: Iterable[Place]) -> dict[str, list[Place]]:
    """Group places by split. Raise UserError where the folders do not show the split of a file."""
    places = sorted(places)
    groups: dict[str, list[Place]] = {}
    for folders, stem in places:
        groups.setdefault(folders[0] if folders else "", []).append((folders, stem))
    for first, held in groups.items():
        inner = next((folders[1] for folders, _ in held if len(folders) > 1 and SPLIT.fullmatch(folders[1])), "")
        if inner and not SPLIT.fullmatch(first):
            raise UserError(
                f"config.data.folder.root={str(root)!r} holds {first}/, which holds the split {inner!r}; set it to {root / first}"
            )
    if "" in groups and len(groups) > 1:
        others = ", ".join(sorted(groups.keys() - {""})[:SHOWN])
        raise UserError(
            f"{root}: some annotated images are in folders ({others}), and others are not; each folder is a split, so move the "
            "others into one"
        )
    return {first or ONLY: held for first, held in groups.items()}


def name_in_split(place: Place, image: pathlib.Path) -> str:
    """Return the name of an image, its path below the folder of its split."""
    return "/".join((*place[0][1:], image.name))
