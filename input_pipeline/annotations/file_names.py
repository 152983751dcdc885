"""Finds images by the names in files of different programs, which write more or fewer folders in their paths."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence

from errors import UserError

Parts = tuple[str, ...]  # the parts of a path, from last to first


def split_name(name: str) -> Parts:
    """Return the parts of a path, the last one first. Separators may be Windows', and accents composed or not."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return tuple(part for part in reversed(parts) if part not in ("", "."))


class FileNames:
    """The images of a list by their `names`.

    A name means an image if one of the two paths ends with the other. `cam0/frame.jpg` matches `val/cam0/frame.jpg` and, if it
    is the only candidate, `frame.jpg`. It never matches `cam1/frame.jpg`.
    """

    def __init__(self, names: Sequence[str]):
        self.names = names
        self._places = defaultdict(list)  # by the last part of their paths
        for place, name in enumerate(names):
            parts = split_name(name)
            self._places[parts[:1]].append((parts, place))
        self._found: dict[int, str] = {}  # the name by which each image was found

    def find(self, name: str) -> int:
        """Return the place of the image that `name` means.

        Raise UserError where it matches no image or several, and where another name has matched the same image.
        """
        parts = split_name(name)
        alike = self._places.get(parts[:1], ())
        near = [(own, place) for own, place in alike if not _differ(own, parts)]
        same = [place for own, place in near if own == parts] or [place for _, place in near]
        if len(same) > 1:
            raise UserError(f"the file_name {name!r} may be {self._show(same)}; add the folders that distinguish them")
        if not same:
            others = f"; it has {self._show([place for _, place in alike])}, in other folders" if alike else ""
            raise UserError(f"the file_name {name!r} is not in the list{others}")
        other = self._found.setdefault(same[0], name)
        if split_name(other) != parts:
            raise UserError(f"the file_names {other!r} and {name!r} both match the image {self.names[same[0]]!r}")
        return same[0]

    def _show(self, places: Sequence[int]) -> str:
        return " and ".join(sorted(repr(self.names[place]) for place in places)[:2])


def _differ(first: Parts, second: Parts) -> bool:
    return any(one != other for one, other in zip(first, second, strict=False))
