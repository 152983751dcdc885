"""COCO's JSON: images, annotations, categories and detections.

An `Entry` refuses what cannot be used. Files to score end with its first mistake; `read_instances`, for data to train on,
collects them, and names all that is wrong with a file at once.
"""

import contextlib
import itertools
import json
import os
import unicodedata
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from errors import UserError
from files import read_json
from input_pipeline.annotations.annotated_image import AnnotatedImage, Annotation, check_names
from input_pipeline.annotations.box_kinds import are_fractions, disagree, leave, recognise
from input_pipeline.annotations.masks import FARTHEST, LEAST, encode_mask, encode_runs, is_polygon
from input_pipeline.annotations.numbers import is_finite, is_number, is_whole
from input_pipeline.batch import refuse
from limits import ANNOTATION_DIGITS, ANNOTATIONS

SHOWN = 80  # letters of a wrong value that its error shows
LOOKED_AT = 5000  # entries at most that show what the numbers and names of a file mean


def load_json(path: Path) -> Any:
    """What a file of annotations or detections holds. Raises UserError."""
    return read_json(path, ANNOTATIONS, kind=object, digits=ANNOTATION_DIGITS)


def read_instances(path: Path, images: Path, root: Path) -> tuple[list[AnnotatedImage], dict[int, str]]:
    """The images in the file's order, and the categories' names by id, in its order. Raises UserError.

    Files are named below the folder `images`, or else below `root`, and lie in `root`.
    """
    content = load_json(path)
    for key in ("images", "annotations", "categories"):
        held = content.get(key) if isinstance(content, dict) else None
        if not isinstance(held, list) or not all(isinstance(entry, dict) for entry in held):
            raise UserError(
                f"{path} has no list {key!r}; COCO's instances files hold images, annotations and categories"
            )
    categories = _read_categories(path, content["categories"])
    annotated = _read_images(path, (images, root, root / "images", path.parent), root, content["images"])
    labels = {category_id: label for label, category_id in enumerate(categories)}
    wrong = []
    for number, fields in enumerate(content["annotations"]):
        place = show(fields["id"]) if "id" in fields else f"at place {number + 1}"
        entry = Entry(path, f"annotation {place}", fields)
        try:
            annotation = _read_annotation(entry, annotated, labels)
            annotated[entry["image_id"]].objects.append(annotation)
        except UserError as error:
            wrong.append(str(error).removeprefix(f"{path}: "))
    refuse(f"{path}: annotations that cannot be used", wrong, "; correct them, or take them out")
    _check_meaning(path, content["annotations"], annotated)
    return list(annotated.values()), categories


def _read_categories(path: Path, entries: list[dict]) -> dict[int, str]:
    if not all(is_whole(entry.get("id")) and isinstance(entry.get("name"), str) for entry in entries):
        raise UserError(f"{path} has a category without an id (a whole number of int64) or a name; write both")
    entries = sorted(entries, key=lambda entry: entry["id"])
    ids = [entry["id"] for entry in entries]
    if len(set(ids)) < len(ids):
        twice = next(number for number, after in itertools.pairwise(ids) if number == after)
        raise UserError(f"{path} has the category id {twice} more than once; give each category its own")
    names = check_names([entry["name"] for entry in entries], path) if entries else ()
    return dict(zip(ids, names, strict=True))


def _read_images(path: Path, folders: Sequence[Path], root: Path, entries: list[dict]) -> dict[int, AnnotatedImage]:
    """The images by id, without their objects. Names are relative to that of `folders` that holds the most of them."""
    if not entries:
        raise UserError(f"{path} names no image; write them into 'images', or take the file away")
    looked_at = [entry["file_name"] for entry in entries if isinstance(entry.get("file_name"), str)]
    looked_at = looked_at[:: len(looked_at) // LOOKED_AT + 1]
    folder = max(folders, key=lambda place: sum(os.path.isfile(_find(place, name)) for name in looked_at))
    annotated, names, wrong, lost = {}, set(), [], []
    for number, entry in enumerate(entries):
        image_id, name = entry.get("id"), entry.get("file_name")
        size = entry.get("height"), entry.get("width")
        if not is_whole(image_id) or not isinstance(name, str):
            wrong.append(f"the image at place {number + 1} has no id (a whole number of int64) or no file_name")
            continue
        file = _find(folder, name)
        if image_id in annotated:
            wrong.append(f"the image id {image_id} is listed more than once")
        elif file in names:
            wrong.append(f"the file {show_name(name)} is listed more than once")
        elif not file.is_relative_to(os.path.normpath(root)):
            wrong.append(f"the file_name {show_name(name)} leads out of {root}: images lie in the folder that is given")
            lost.append(name)
        elif size != (None, None) and not all(map(is_whole, size)):
            wrong.append(f"the image {image_id} has no height and width in whole numbers")
        elif not os.path.isfile(file):
            wrong.append(f"{folder / show_name(name)} is missing")
            lost.append(name)
        else:
            size = None if size == (None, None) else size
            annotated[image_id] = AnnotatedImage(file, _name(file, folder, root), image_id, size, [])
        names.add(file)
    refuse(
        f"{path}: images that cannot be used", wrong, f"; bring the files, or correct the list{_find_alike(lost, root)}"
    )
    return annotated


def _find(folder: Path, name: str) -> Path:
    """The file that a name with folders means, its separators those of Windows or not; it need not be there."""
    path = Path(os.path.normpath(folder / name))
    if "\\" not in name or os.path.isfile(path):
        return path
    return Path(os.path.normpath(folder / name.replace("\\", "/")))


def _find_alike(names: Sequence[str], root: Path) -> str:
    """Say which file one of `names` may mean that is in another folder, or written in other letters, or nothing."""
    ends = {_end(name): name for name in names}
    if ends:
        for place, _, files in os.walk(root):
            for file in files:
                if _end(file) in ends:
                    return f": {show_name(ends[_end(file)])} may be {Path(place, file)}; names are paths below {root}"
    return ""


def _end(name: str) -> str:
    """The last part of a path, whatever its separators, capitals and the form of its accents."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").rsplit("/", 1)[-1]).casefold()


def _name(file: Path, folder: Path, root: Path) -> str:
    """The name of an image: its path below its folder, or below the root where it lies elsewhere."""
    top = os.path.normpath(folder if file.is_relative_to(os.path.normpath(folder)) else root)
    return file.relative_to(top).as_posix()


def _check_meaning(path: Path, entries: list[dict], images: dict[int, AnnotatedImage]) -> None:
    """Raises UserError where the four numbers of the boxes are not left, top, width and height in pixels."""
    entries = entries[:: len(entries) // LOOKED_AT + 1]
    nothing = (np.nan,) * 4
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    sizes = np.array([(images[entry["image_id"]].size or nothing)[1::-1] for entry in entries], np.float64).reshape(
        -1, 2
    )
    areas = [entry.get("area") if is_finite(entry.get("area")) else np.nan for entry in entries]
    bounds = [_bound(entry.get("segmentation")) or nothing for entry in entries]
    bounds = np.array(bounds, np.float64).reshape(-1, 4)
    own = "left, top, width, height"
    kind = recognise(boxes, own, sizes, bounds, np.array(areas, np.float64))
    if kind:
        evidence = "their polygons, areas or images say so"
        raise UserError(f"{path}: the numbers of bbox look like {kind} ({evidence}); COCO has {own}: write those")
    if are_fractions(boxes, sizes):
        raise UserError(
            f"{path}: the numbers of bbox look like fractions of the image (all of them lie between 0 and 1); COCO has pixels: "
            "multiply x by the width and y by the height"
        )
    if disagree(boxes, own, bounds):
        raise UserError(
            f"{path}: the boxes disagree with their polygons: nearly all of them are elsewhere, or of another size; COCO's "
            f"bbox is {own} in pixels: correct the boxes, or the polygons"
        )
    if leave(boxes, own, sizes):
        raise UserError(
            f"{path}: nearly all boxes leave their images, or have no area; COCO's bbox is {own} in pixels of the image with the "
            "height and width that the file gives: scale the numbers to that"
        )


def _bound(segmentation: Any) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of polygons; None for anything else."""
    if not isinstance(segmentation, list):
        return None
    x = [value for polygon in segmentation if len(polygon) >= LEAST for value in polygon[::2]]
    y = [value for polygon in segmentation if len(polygon) >= LEAST for value in polygon[1::2]]
    return (min(x), min(y), max(x), max(y)) if x else None


def _read_annotation(entry: "Entry", images: Container[int], labels: dict[int, int]) -> Annotation:
    """More is let through than of a file to score: bad boxes, which are named later, and runs, for no size is known yet."""
    entry.refer("image_id", images, entry.path.name)
    label = labels[entry.refer("category_id", labels, entry.path.name)]
    left, top, width, height = entry.box(bad=True)
    crowd, area, segmentation = (entry.fields.get(key) for key in ("iscrowd", "area", "segmentation"))
    if "iscrowd" in entry and crowd not in (0, 1):
        raise entry.error(f"has an iscrowd that is neither 0 nor 1: {show(crowd)}")
    runs = isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys()
    segmentation = segmentation or ()
    if not runs and not (isinstance(segmentation, list | tuple) and all(map(is_polygon, segmentation))):
        raise entry.error("has a segmentation that is neither polygons [[x, y, x, y, ...]] nor run lengths")
    return Annotation(
        box=(top, left, top + height, left + width),
        label=label,
        crowd=bool(crowd),
        area=area if is_finite(area) else None,
        segmentation=segmentation,
    )


class Entry:
    """One object of a file, which knows its place there."""

    def __init__(self, path: Path, place: str, fields: object):
        self.path, self.place, self.fields = path, place, fields
        if not isinstance(fields, dict):
            raise self.error(f"is not an object: {show(fields)}")

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}: {self.place} {problem}")

    def __contains__(self, key: str) -> bool:
        return key in self.fields

    def __getitem__(self, key: str):
        if key not in self.fields:
            raise self.error(f"lacks {key!r}")
        return self.fields[key]

    def number(self, key: str) -> float:
        """Raises UserError for NaN, too, and for a whole number that is too large."""
        if not is_finite(self[key]):
            raise self.error(f"has no finite number as its {key}: {show(self[key])}")
        return float(self[key])

    def side(self, key: str) -> int:
        """Of an image, in pixels."""
        value = self.number(key)
        if not (value.is_integer() and 1 <= value <= FARTHEST):
            raise self.error(f"has a {key} that is not a whole number from 1 to {FARTHEST}: {show(self[key])}")
        return int(value)

    def flag(self, *keys: str) -> bool:
        """Is one of `keys` there and set?"""
        return any(key in self and self.number(key) != 0 for key in keys)

    def key(self, key: str) -> int | str:
        """A number or a name that other entries refer to."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.error(
                f"has a{'n' if key[0] in 'aeiou' else ''} {key} that is neither a whole number nor text: {show(value)}"
            )
        return value

    def text(self, key: str) -> str:
        if not isinstance(self[key], str):
            raise self.error(f"has a {key} that is not text: {show(self[key])}")
        return self[key]

    def refer(self, key: str, known: Container[int | str], where: str | Path) -> int | str:
        """The `key` of another entry, one of those `known`, which the file `where` defines."""
        value = self.key(key)
        if value not in known:
            raise self.error(f"has the {key} {show(self[key])}, which {where} does not define")
        return value

    def box(self, *, bad: bool = False) -> list[float]:
        """(left, top, width, height) in pixels; where `bad`, also one that is not finite or reversed."""
        value = self["bbox"]
        numbers = isinstance(value, list) and len(value) == 4 and all(map(is_number, value))
        if not numbers or not (bad or (all(map(is_finite, value)) and min(value[2:]) >= 0)):
            raise self.error(f"has a bbox that is not [left, top, width, height] in pixels: {show(value)}")
        return [float(number) for number in value]  # of whole numbers the sums could be too large for a float

    def mask(self, height: int, width: int) -> dict:
        """Polygons, or runs as a list or as COCO's text -> COCO's text of the runs."""
        value = self["segmentation"]
        if not isinstance(value, list) or all(is_polygon(part) and len(part) >= LEAST for part in value):
            with contextlib.suppress(UserError):
                counts = encode_mask(value, (height, width)) or encode_runs([height * width], (height, width))
                return {"size": [height, width], "counts": counts}
        raise self.error(
            f"has a segmentation that is neither polygons, within {FARTHEST} pixels, nor the runs of a mask of "
            f"{height}x{width} pixels: {show(value)}"
        )


def list_entries(path: Path, kind: str, values: object) -> list[Entry]:
    if not isinstance(values, list):
        raise UserError(f"{path}: {kind} are not a list: {show(values)}")
    return [Entry(path, f"{kind}[{index}]", fields) for index, fields in enumerate(values)]


def index_entries(entries: list[Entry], key: str) -> dict[int | str, int]:
    """The place of the entry of each key. Raises UserError where two have the same."""
    places: dict[int | str, int] = {}
    for place, entry in enumerate(entries):
        if places.setdefault(entry.key(key), place) != place:
            raise entry.error(f"has the {key} {show(entry[key])} of another one")
    return places


def show_name(name: str) -> str:
    """A file's name for an error; of a long one the beginning and the end."""
    return name if len(name) <= SHOWN else f"{name[: SHOWN // 2]}...{name[-SHOWN // 2 :]}"


def show(value: object) -> str:
    """The beginning of a value as JSON, for an error."""
    try:
        return json.dumps(value)[:SHOWN]
    except RecursionError:  # writing needs a little more of the stack than reading did
        return "too deeply nested to be shown"
