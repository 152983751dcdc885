"""What layouts share: the files below a folder, and which image and which annotation belong together.

An image and its annotation have the same place: the folders on the way to it, without those that only say what kind of
file is in them, and the name without its suffix. `train/images/a.jpg` and `train/labels/a.txt` both have the place (train, a),
and so have `images/train/a.jpg`, `labels/train/a.txt`, and `train/a.txt` next to `train/a.jpg`. The first folder of a place names
the split.
"""

import dataclasses
import os
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from errors import UserError
from input_pipeline.batch import SHOWN, refuse
from input_pipeline.decoding import list_images

ONLY = "train"  # the name of the split where there are none
SPLIT = re.compile(r"(train|trainval|val|valid|validation|test|dev|eval)(ing)?[-_]?\d*", re.IGNORECASE)
SKIPPED = ("__MACOSX",)  # folders that archives bring along
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

    def remarks(self, split: str) -> list[str]:
        """Return the layout and the reason, and what was passed over, a line each."""
        return [f"layout: {self.what}; found {self.why}", *self.notes.get("", ()), *self.notes.get(split, ())]


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


def list_below(root: pathlib.Path) -> list[pathlib.Path]:
    """List the images in a folder and in all folders below it. Raises UserError for what is not a file."""
    listed = [path for folder in walk_folders(root) for path in list_images(folder) if not path.is_dir()]
    check_files(root, listed)
    return listed


def check_files(where: pathlib.Path, paths: Iterable[pathlib.Path]) -> None:
    """Raises UserError for a path that is not a file that can be read to its end: a folder, a pipe, a link to nothing."""
    odd = [f"{path.name} is {_say_kind(path)}" for path in paths if not is_file(path)]
    refuse(f"{where}: names of images that are not files", odd, "; take them away")


def _say_kind(path: pathlib.Path) -> str:
    if path.is_symlink():
        return "a link that leads to no file"
    return "a folder" if path.is_dir() else "no regular file"


def is_file(path: pathlib.Path) -> bool:
    """Whether there is a regular file; also of a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a null
        return False


def place_of(path: pathlib.Path, root: pathlib.Path, kinds: Collection[str]) -> Place:
    """Return the place of a file below `root`; `kinds` are the folders, in small letters, that do not belong to it."""
    folders = path.relative_to(root).parent.parts
    return tuple(name for name in folders if name.lower() not in kinds), unicodedata.normalize("NFC", path.stem)


def index_places(
    paths: Iterable[pathlib.Path], root: pathlib.Path, kinds: Collection[str]
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
