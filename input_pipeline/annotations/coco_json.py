"""COCO's JSON, with images, annotations, categories and detections.

An `Entry` raises UserError for unusable values. Files to score stop at the first fault. `read_instances`, for training data,
collects the faults and reports all of a file at once.
"""

import contextlib
import itertools
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from errors import UserError
from files import read_json
from input_pipeline.annotations.annotated_image import AnnotatedImage, Annotation, check_names
from input_pipeline.annotations.box_kinds import are_fractions, disagree, leave, recognise
from input_pipeline.annotations.masks import FARTHEST, LEAST, encode_mask, encode_runs, is_polygon
from input_pipeline.annotations.numbers import is_finite, is_number, is_whole
from input_pipeline.batch import refuse
from limits import ANNOTATION_DIGITS, ANNOTATIONS

Key = TypeVar("Key", bound=int | str)  # of an entry
SHOWN = 80  # letters of a wrong value that its error shows
LOOKED_AT = 5000  # maximum number of entries used to recognise the meaning of a file's numbers and names


def load_json(path: Path) -> Any:
    """Return the content of a file of annotations or detections. Raise UserError if it cannot be read."""
    return read_json(path, ANNOTATIONS, kind=object, digits=ANNOTATION_DIGITS)


def read_instances(path: Path, images: Path, root: Path) -> tuple[list[AnnotatedImage], dict[int, str]]:
    """Return the images in the file's order, and the categories' names by id. Raise UserError.

    Names are relative to the folder `images`, or else to `root`. The files must be in `root`.
    """
    content = load_json(path)
    for key in ("images", "annotations", "categories"):
        held = content.get(key) if isinstance(content, dict) else None
        if not isinstance(held, list) or not all(isinstance(entry, dict) for entry in held):
            raise UserError(
                f"{path} has no list {key!r}; give a COCO instances file, with images, annotations and categories"
            )
    categories = _read_categories(path, content["categories"])
    annotated = _read_images(path, (images, root, root / "images", path.parent), root, content["images"])
    labels = {category_id: label for label, category_id in enumerate(categories)}
    wrong = []
    for number, fields in enumerate(content["annotations"]):
        place = show(fields["id"]) if "id" in fields else f"number {number + 1}"
        entry = Entry(path, f"annotation {place}", fields)
        try:
            annotation = _read_annotation(entry, annotated, labels)
            annotated[entry["image_id"]].objects.append(annotation)
        except UserError as error:
            wrong.append(str(error).removeprefix(f"{path}: "))
    refuse(f"{path}: annotations that cannot be used", wrong, "; correct or remove them")
    _check_meaning(path, content["annotations"], annotated)
    return list(annotated.values()), categories


def _read_categories(path: Path, entries: list[dict]) -> dict[int, str]:
    if not all(is_whole(entry.get("id")) and isinstance(entry.get("name"), str) for entry in entries):
        raise UserError(f"{path} has a category without an id (a whole number of int64) or a name; add both")
    entries = sorted(entries, key=lambda entry: entry["id"])
    ids = [entry["id"] for entry in entries]
    if len(set(ids)) < len(ids):
        twice = next(number for number, after in itertools.pairwise(ids) if number == after)
        raise UserError(f"{path} has the category id {twice} more than once; give each category its own")
    names = check_names([entry["name"] for entry in entries], path) if entries else ()
    return dict(zip(ids, names, strict=True))


def _read_images(path: Path, folders: Sequence[Path], root: Path, entries: list[dict]) -> dict[int, AnnotatedImage]:
    """Return the images by id, without their objects. Names are relative to the one of `folders` with the most of them."""
    if not entries:
        raise UserError(f"{path} lists no image; add them to 'images', or remove the file")
    looked_at = [entry["file_name"] for entry in entries if isinstance(entry.get("file_name"), str)]
    looked_at = looked_at[:: len(looked_at) // LOOKED_AT + 1]
    folder = max(folders, key=lambda place: sum(os.path.isfile(_find(place, name)) for name in looked_at))
    annotated, names, wrong, lost = {}, set(), [], []
    for number, entry in enumerate(entries):
        image_id, name = entry.get("id"), entry.get("file_name")
        size = entry.get("height"), entry.get("width")
        if not is_whole(image_id) or not isinstance(name, str):
            wrong.append(f"image number {number + 1} has no id (a whole number of int64) or no file_name")
            continue
        file = _find(folder, name)
        if image_id in annotated:
            wrong.append(f"the image id {image_id} is listed more than once")
        elif file in names:
            wrong.append(f"the file {show_name(name)} is listed more than once")
        elif not file.is_relative_to(os.path.normpath(root)):
            wrong.append(f"the file_name {show_name(name)} is outside {root}; move the image into it")
            lost.append(name)
        elif size != (None, None) and not all(map(is_whole, size)):
            wrong.append(f"the image {image_id} has no height and width as whole numbers")
        elif not os.path.isfile(file):
            wrong.append(f"{folder / show_name(name)} is missing")
            lost.append(name)
        else:
            size = None if size == (None, None) else (entry["height"], entry["width"])
            annotated[image_id] = AnnotatedImage(file, _name(file, folder, root), image_id, size, [])
        names.add(file)
    refuse(
        f"{path}: images that cannot be used", wrong, f"; add the files, or correct the list{_find_alike(lost, root)}"
    )
    return annotated


def _find(folder: Path, name: str) -> Path:
    """Return the file of a name with folders, whose separators may be Windows'. It need not exist."""
    path = Path(os.path.normpath(folder / name))
    if "\\" not in name or os.path.isfile(path):
        return path
    return Path(os.path.normpath(folder / name.replace("\\", "/")))


def _find_alike(names: Sequence[str], root: Path) -> str:
    """Return a hint about a file that one of `names` may mean, in another folder or with other letters, or ""."""
    ends = {_end(name): name for name in names}
    if ends:
        for place, _, files in os.walk(root):
            for file in files:
                if _end(file) in ends:
                    return (
                        f": {show_name(ends[_end(file)])} may be {Path(place, file)}; names must be paths below {root}"
                    )
    return ""


def _end(name: str) -> str:
    """Return the last part of a path, whatever its separators, case and form of accents."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").rsplit("/", 1)[-1]).casefold()


def _name(file: Path, folder: Path, root: Path) -> str:
    """Return the name of an image, its path below its folder, or below the root where it lies elsewhere."""
    top = os.path.normpath(folder if file.is_relative_to(os.path.normpath(folder)) else root)
    return file.relative_to(top).as_posix()


def _check_meaning(path: Path, entries: list[dict], images: dict[int, AnnotatedImage]) -> None:
    """Raise UserError where the four numbers of the boxes are not left, top, width and height in pixels."""
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
        evidence = "judged by the polygons, areas or image sizes"
        raise UserError(f"{path}: the numbers of bbox look like {kind} ({evidence}); convert them to COCO's {own}")
    if are_fractions(boxes, sizes):
        raise UserError(
            f"{path}: the numbers of bbox look like fractions of the image (all are between 0 and 1), but COCO uses pixels; "
            "multiply x by the width and y by the height"
        )
    if disagree(boxes, own, bounds):
        raise UserError(
            f"{path}: nearly all boxes differ from their polygons in place or size; COCO's bbox is {own} in pixels: correct the "
            "boxes or the polygons"
        )
    if leave(boxes, own, sizes):
        raise UserError(
            f"{path}: nearly all boxes reach out of their images or have no area; COCO's bbox is {own} in pixels: scale the "
            "numbers to the height and width of the image in the file"
        )


def _bound(segmentation: Any) -> tuple[float, float, float, float] | None:
    """Return left, top, right and bottom of polygons, None for anything else."""
    if not isinstance(segmentation, list):
        return None
    x = [value for polygon in segmentation if len(polygon) >= LEAST for value in polygon[::2]]
    y = [value for polygon in segmentation if len(polygon) >= LEAST for value in polygon[1::2]]
    return (min(x), min(y), max(x), max(y)) if x else None


def _read_annotation(entry: "Entry", images: Mapping[int, AnnotatedImage], labels: Mapping[int, int]) -> Annotation:
    """Read an annotation, less strictly than in a file to score.

    Bad boxes pass, because they are reported later. Runs pass, because no image size is known yet.
    """
    entry.refer("image_id", images, entry.path.name)
    label = labels[entry.refer("category_id", labels, entry.path.name)]
    left, top, width, height = entry.box(bad=True)
    crowd, area, segmentation = (entry.fields.get(key) for key in ("iscrowd", "area", "segmentation"))
    if "iscrowd" in entry and crowd not in (0, 1):
        raise entry.error(f"has iscrowd={show(crowd)}, which must be 0 or 1")
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
    """One object of a file, with its place there for error messages."""

    def __init__(self, path: Path, place: str, fields: object):
        self.path, self.place = path, place
        if not isinstance(fields, dict):
            raise self.error(f"is not a JSON object: {show(fields)}")
        self.fields: dict[str, Any] = fields

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}: {self.place} {problem}")

    def __contains__(self, key: str) -> bool:
        return key in self.fields

    def __getitem__(self, key: str) -> Any:
        if key not in self.fields:
            raise self.error(f"lacks {key!r}")
        return self.fields[key]

    def number(self, key: str) -> float:
        """Return a finite number. Raise UserError for NaN, too, and for a whole number that is too large."""
        if not is_finite(self[key]):
            raise self.error(f"has {key}={show(self[key])}, which must be a finite number")
        return float(self[key])

    def side(self, key: str) -> int:
        """Return the side of an image, in pixels."""
        value = self.number(key)
        if not (value.is_integer() and 1 <= value <= FARTHEST):
            raise self.error(f"has {key}={show(self[key])}, which must be a whole number from 1 to {FARTHEST}")
        return int(value)

    def flag(self, *keys: str) -> bool:
        """Return whether one of `keys` is present and set."""
        return any(key in self and self.number(key) != 0 for key in keys)

    def key(self, key: str) -> int | str:
        """Return a number or a name that other entries refer to."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.error(f"has {key}={show(value)}, which must be a whole number or text")
        return value

    def text(self, key: str) -> str:
        if not isinstance(self[key], str):
            raise self.error(f"has {key}={show(self[key])}, which must be text")
        return self[key]

    def refer(self, key: str, known: Mapping[Key, Any], where: str | Path) -> Key:
        """Return the `key` of another entry, one of those `known`, which the file `where` defines."""
        self.key(key)
        if self[key] not in known:
            raise self.error(f"has {key}={show(self[key])}, which {where} does not define")
        return self[key]

    def box(self, *, bad: bool = False) -> list[float]:
        """Return (left, top, width, height) in pixels. With `bad`, it may be infinite, NaN or reversed."""
        value = self["bbox"]
        numbers = isinstance(value, list) and len(value) == 4 and all(map(is_number, value))
        if not numbers or not (bad or (all(map(is_finite, value)) and min(value[2:]) >= 0)):
            raise self.error(f"has bbox={show(value)}, which must be [left, top, width, height] in pixels")
        return [float(number) for number in value]  # sums of whole numbers could be too large for a float

    def mask(self, height: int, width: int) -> dict:
        """Return polygons, or runs as a list or as COCO's text, as COCO's text of the runs."""
        value = self["segmentation"]
        if not isinstance(value, list) or all(is_polygon(part) and len(part) >= LEAST for part in value):
            with contextlib.suppress(UserError):
                counts = encode_mask(value, (height, width)) or encode_runs([height * width], (height, width))
                return {"size": [height, width], "counts": counts}
        raise self.error(
            f"has segmentation={show(value)}, which must be polygons within {FARTHEST} pixels, or the run lengths of a mask of "
            f"{height}x{width} pixels"
        )


def list_entries(path: Path, kind: str, values: object) -> list[Entry]:
    if not isinstance(values, list):
        raise UserError(f"{path}: {kind} must be a list, but are {show(values)}")
    return [Entry(path, f"{kind}[{index}]", fields) for index, fields in enumerate(values)]


def index_entries(entries: list[Entry], key: str) -> dict[int | str, int]:
    """Return the place of the entry of each key. Raise UserError where two entries have the same."""
    places: dict[int | str, int] = {}
    for place, entry in enumerate(entries):
        if places.setdefault(entry.key(key), place) != place:
            raise entry.error(f"has {key}={show(entry[key])}, which another entry already has")
    return places


def show_name(name: str) -> str:
    """Return a file's name for an error, shortened to its beginning and end where it is long."""
    return name if len(name) <= SHOWN else f"{name[: SHOWN // 2]}...{name[-SHOWN // 2 :]}"


def show(value: object) -> str:
    """Return the beginning of a value as JSON, for an error."""
    try:
        return json.dumps(value)[:SHOWN]
    except RecursionError:  # writing needs a little more of the stack than reading did
        return "(a value too deeply nested to be shown)"
