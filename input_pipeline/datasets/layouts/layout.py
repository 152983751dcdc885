"""What layouts share: the files below a folder, and which image and which annotation belong together.

An image and its annotation have the same place: the folders on the way to it, without those that only say what kind of
file is in them, and the name without its suffix. `train/images/a.jpg` and `train/labels/a.txt` both have the place (train, a),
and so have `images/train/a.jpg`, `labels/train/a.txt`, and `train/a.txt` next to `train/a.jpg`. The first folder of a place names
the split.
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

ONLY = "train"  # the name of the split where there are none
SPLIT = re.compile(r"(train|trainval|val|valid|validation|test|dev|eval)(ing)?[-_]?\d*", re.IGNORECASE)
SKIPPED = ("__MACOSX",)  # folders that archives bring along
DARKNET = (".data", ".names")  # suffixes of text
IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages", "pngimages"})

Place = tuple[tuple[str, ...], str]  # folders, and the name without its suffix


class Pair(NamedTuple):
    """An image and its annotation."""

    image: pathlib.Path
    annotation: pathlib.Path | None  # None: an image without annotation, which has no object
    name: str  # of the image: its path below the folder of its split


@dataclasses.dataclass(frozen=True)
class Layout:
    """A folder's layout as it was recognised. What `splits` holds for each split is up to the format."""

    what: str  # the layout, in a few words
    why: str  # what was seen that makes it this one
    splits: dict[str, Any]
    files: tuple[pathlib.Path, ...] = ()  # that say which files belong to a split
    notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # on each split, and on all of them by ""

    def describe(self) -> str:
        """Return the layout and the reason in one line."""
        return f"layout: {self.what}; found {self.why}"

    def remarks(self, split: str) -> list[str]:
        """Return what was passed over, a line each."""
        return [*self.notes.get("", ()), *self.notes.get(split, ())]


def walk_folders(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a folder and all folders below it, sorted. Links are followed, but no folder is entered from within itself."""
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
    """List the files of a folder with `suffix`, in small letters or capitals, sorted; hidden ones are the system's."""
    return keep_files(path for path in folder.iterdir() if path.suffix.lower() == suffix and path.name[0] != ".")


def keep_files(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Return the files among `paths`, sorted, without the folders.

    Raises UserError for pipes, which would be waited for without end, and for links to nothing.
    """
    named = sorted(paths)
    files = [path for path in named if path.is_file()]
    if len(files) < len(named):
        odd = [str(path) for path in named if not path.is_file() and not path.is_dir()]
        refuse("links to nothing, or pipes, in the place of files", odd, "; bring the files, or take these away")
    return files


def list_below(root: pathlib.Path) -> list[pathlib.Path]:
    """List the images in a folder and in all folders below it."""
    return [path for folder in walk_folders(root) for path in list_images(folder)]


def name_passed_over(images: Iterable[pathlib.Path]) -> list[str]:
    """Remarks on what lies among images and is none."""
    folders = sorted({path.parent for path in images})
    return name_others(path for folder in folders for path in list_others(folder) if path.suffix not in DARKNET)


def place_of(path: pathlib.Path, root: pathlib.Path, kinds: frozenset[str]) -> Place:
    """Return the place of a file below `root`; `kinds` are the folders, in small letters, that do not belong to it."""
    return _list_folders(path.parent, root, kinds), unicodedata.normalize("NFC", path.stem)


@functools.lru_cache(maxsize=1024)  # of the many files in one folder
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
    """Group places by split. Raises UserError where the folders do not say which split a file is of."""
    places = sorted(places)
    groups: dict[str, list[Place]] = {}
    for folders, stem in places:
        groups.setdefault(folders[0] if folders else "", []).append((folders, stem))
    for first, held in groups.items():
        inner = next((folders[1] for folders, _ in held if len(folders) > 1 and SPLIT.fullmatch(folders[1])), "")
        if inner and not SPLIT.fullmatch(first):
            raise UserError(
                f"config.data.folder.root={str(root)!r} holds {first}/, and that the split {inner!r}; give {root / first} instead"
            )
    if "" in groups and len(groups) > 1:
        others = ", ".join(sorted(groups.keys() - {""})[:SHOWN])
        raise UserError(
            f"{root}: annotated images lie in folders ({others}) and outside these; a folder is a split, so move the others "
            "into one"
        )
    return {first or ONLY: held for first, held in groups.items()}


def name_in_split(place: Place, image: pathlib.Path) -> str:
    """Return the name of an image: its path below the folder of its split."""
    return "/".join((*place[0][1:], image.name))
