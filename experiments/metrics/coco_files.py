"""Reads truths and detections from COCO's two kinds of files; what cannot be used is one line that names its place."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from faster_coco_eval.core import mask

from errors import UserError
from experiments.metrics.precision import Detections, ScoringTables, Truths

SHOWN = 80  # letters of a wrong value that its error shows
FARTHEST = 1_000_000  # pixels: a coordinate of a polygon or a side beyond it is a mistake that would take gigabytes


class Entry:
    """One object of a file, which knows its place there."""

    def __init__(self, path: Path, place: str, fields: object):
        self.path, self.place, self.fields = path, place, fields
        if not isinstance(fields, dict):
            raise self.error(f"is not an object: {_shown(fields)}")

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
        if not _finite(self[key]):
            raise self.error(f"has no finite number as its {key}: {_shown(self[key])}")
        return float(self[key])

    def side(self, key: str) -> int:
        """Of an image, in pixels."""
        value = self.number(key)
        if not (value.is_integer() and 1 <= value <= FARTHEST):
            raise self.error(f"has a {key} that is no whole number from 1 to {FARTHEST}: {_shown(self[key])}")
        return int(value)

    def flag(self, *keys: str) -> bool:
        """Is one of `keys` there and set?"""
        return any(key in self and self.number(key) != 0 for key in keys)

    def key(self, key: str) -> int | str:
        """A number or a name that other entries refer to; of a file's path its last part."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.error(f"has a {key} that is neither a whole number nor text: {_shown(value)}")
        return Path(value).name if key == "file_name" else value

    def box(self) -> list[float]:
        """(left, top, width, height) in pixels."""
        value = self["bbox"]
        if not (isinstance(value, list) and len(value) == 4 and all(map(_finite, value)) and min(value[2:]) >= 0):
            raise self.error(f"has a bbox that is not [left, top, width, height] in pixels: {_shown(value)}")
        return [float(number) for number in value]

    def mask(self, height: int, width: int) -> dict:
        """Polygons, or runs as a list or as COCO's text -> COCO's text of the runs."""
        value = self["segmentation"]
        if isinstance(value, list) and all(map(_is_polygon, value)):
            return mask.segmToRle(value or {"size": [height, width], "counts": [height * width]}, width, height)
        if isinstance(value, dict) and value.get("size") == [height, width]:
            counts = value.get("counts")
            runs = _decoded(counts) if isinstance(counts, str) else counts
            whole = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
            if whole and sum(runs) == height * width:  # COCO's tools may wait forever for the end of a shorter mask
                return mask.segmToRle({"size": [height, width], "counts": runs}, width, height)
        raise self.error(
            f"has a segmentation that is neither polygons, within {FARTHEST} pixels, nor the runs of a mask of "
            f"{height}x{width} pixels: {_shown(value)}"
        )


def _is_polygon(value: object) -> bool:
    paired = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
    return paired and all(_finite(number) and abs(number) <= FARTHEST for number in value)


def _decoded(text: str) -> list[int] | None:
    """The runs in COCO's text of a mask, or None where it is none.

    A character is 48 and 5 bits of a number, the lowest first, and 32 where more of it follow; the fifth bit of its last
    one is the sign. From the fourth number on they are differences to the run two before.
    """
    codes = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] > 31:
        return None
    ends = np.flatnonzero(codes < 32)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > 7:  # more than 35 bits
        return None
    starts = ends + 1 - lengths
    numbers = np.add.reduceat((codes & 31) << 5 * (np.arange(codes.size) - starts.repeat(lengths)), starts)
    numbers -= (codes[ends] >> 4) << 5 * lengths
    for first in (1, 2):
        numbers[first::2] = numbers[first::2].cumsum()
    return numbers.tolist()


def _finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _shown(value: object) -> str:
    try:
        return json.dumps(value)[:SHOWN]
    except RecursionError:  # writing needs a little more of the stack than reading did
        return "too deeply nested to be shown"


def read(ground_truth: Path, detections: Path, iou_type: str) -> tuple[ScoringTables, list[str]]:
    """COCO's two files -> what there is to score, by the images' ids, and the categories' names by theirs.

    `iou_type` is bbox or segm. Where every detection has a file_name or a category_name, it refers to the image or the
    category by that, else by the id. Raises UserError naming the file and the entry that cannot be used.
    """
    known = _load(ground_truth)
    if not isinstance(known, dict) or not {"images", "annotations", "categories"} <= known.keys():
        raise UserError(f"{ground_truth}: not COCO's ground truth, an object of images, annotations and categories")
    images, objects, categories = (
        _entries(ground_truth, kind, known[kind]) for kind in ("images", "annotations", "categories")
    )
    found = _entries(detections, "detections", _load(detections))
    images.sort(key=lambda entry: entry.number("id"))
    categories.sort(key=lambda entry: entry.number("id"))
    class_names = list(_index(categories, "name"))  # refuses two of one name: the scores go by it
    sizes = []
    if iou_type == "segm":
        sizes = [(entry.side("height"), entry.side("width")) for entry in images]

    image_ids, category_ids = _index(images, "id"), _index(categories, "id")
    image, label, objects = _placed(ground_truth, objects, ("image_id", image_ids), ("category_id", category_ids))
    regions = _regions(objects, image, sizes)
    crowd, difficult = (
        np.array([entry.flag(*keys) for entry in objects], bool) for keys in (("iscrowd",), ("difficult", "ignore"))
    )
    areas = np.array(
        [
            entry.number("area") if "area" in entry else _area(region)
            for entry, region in zip(objects, regions, strict=True)
        ],
        np.float64,
    )
    truths = Truths(image, label, regions, crowd, difficult, areas)

    by_file, by_name = (bool(found) and all(key in entry for entry in found) for key in ("file_name", "category_name"))
    image, label, found = _placed(
        ground_truth,
        found,
        ("file_name", _index(images, "file_name")) if by_file else ("image_id", image_ids),
        ("category_name", _index(categories, "name")) if by_name else ("category_id", category_ids),
    )
    scores = np.array([entry.number("score") for entry in found], np.float64)
    regions = _regions(found, image, sizes)
    # As COCO's tools: where detections of masks have boxes too, those say what is small, medium and large.
    boxed = bool(found) and all(entry.fields.get("bbox") for entry in found)
    areas = np.array([_area(region) for region in (_regions(found, image, []) if boxed else regions)], np.float64)
    return ScoringTables(
        truths, Detections(image, label, regions, scores, areas), len(images), len(categories)
    ), class_names


def _load(path: Path):
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not COCO's JSON: lists or objects are nested too deeply") from error


def _entries(path: Path, kind: str, values: object) -> list[Entry]:
    if not isinstance(values, list):
        raise UserError(f"{path}: {kind} are not a list: {_shown(values)}")
    return [Entry(path, f"{kind}[{index}]", fields) for index, fields in enumerate(values)]


def _index(entries: list[Entry], key: str) -> dict[int | str, int]:
    """The place of the entry of each key. Raises UserError where two have the same."""
    places: dict[int | str, int] = {}
    for place, entry in enumerate(entries):
        if places.setdefault(entry.key(key), place) != place:
            raise entry.error(f"has the {key} {_shown(entry[key])} of another one")
    return places


def _placed(
    ground_truth: Path, entries: list[Entry], *references: tuple[str, dict[int | str, int]]
) -> tuple[np.ndarray, np.ndarray, list[Entry]]:
    """The places of the image and of the category of each of `entries`, and these, sorted by the image's.

    `references` are, for both, the field that names them and their places by name. Raises UserError for unknown ones.
    """
    columns = np.zeros((2, len(entries)), int)
    for row, entry in enumerate(entries):
        for column, (field, places) in zip(columns, references, strict=True):
            if entry.key(field) not in places:
                raise entry.error(f"has the {field} {_shown(entry[field])}, which {ground_truth} does not define")
            column[row] = places[entry.key(field)]
    order = np.argsort(columns[0], kind="stable")
    return *columns[:, order], [entries[place] for place in order]


def _regions(entries: list[Entry], image: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """[N,4] float64 boxes, or with `sizes` (height, width) of the images [N] masks."""
    if not sizes:
        return np.array([entry.box() for entry in entries], np.float64).reshape(-1, 4)
    regions = np.empty(len(entries), object)
    regions[:] = [entry.mask(*sizes[place]) for entry, place in zip(entries, image.tolist(), strict=True)]
    return regions


def _area(region: np.ndarray | dict) -> float:
    return float(mask.area(region) if isinstance(region, dict) else region[2] * region[3])
