"""Reads ground truth and detections from COCO's two kinds of files; what cannot be used is one line that names its place."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from errors import UserError, warn
from experiments.metrics.precision import Detections, ScoringTables, Truths
from input_pipeline.annotations.coco_json import Entry, index_entries, list_entries, load_json
from input_pipeline.annotations.file_names import FileNames
from input_pipeline.annotations.masks import measure_area


def read(ground_truth: Path, detections: Path, iou_type: str) -> tuple[ScoringTables, list[str]]:
    """COCO's two files -> what there is to score, by the images' ids, and the categories' names by theirs.

    `iou_type` is bbox, segm or boundary. Where every detection has a file_name or a category_name, it refers to the image or the
    category by that, else by the id; see FileNames. Raises UserError naming the file and the entry that cannot be used.
    """
    known = load_json(ground_truth)
    if not isinstance(known, dict) or not {"images", "annotations", "categories"} <= known.keys():
        raise UserError(f"{ground_truth}: not COCO's ground truth, an object of images, annotations and categories")
    images, objects, categories = (
        list_entries(ground_truth, kind, known[kind]) for kind in ("images", "annotations", "categories")
    )
    found = _list_detections(detections)
    images.sort(key=lambda entry: entry.number("id"))
    categories.sort(key=lambda entry: entry.number("id"))
    class_names = list(index_entries(categories, "name"))  # refuses two of one name: the scores go by it
    sizes = []
    if iou_type != "bbox":
        sizes = [(entry.side("height"), entry.side("width")) for entry in images]

    image_ids, category_ids = index_entries(images, "id"), index_entries(categories, "id")
    image, label, objects = _placed(ground_truth, objects, ("image_id", image_ids), ("category_id", category_ids))
    _warn_of_duplicates(ground_truth, objects)
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
        ("file_name", _find_images(ground_truth, images, found)) if by_file else ("image_id", image_ids),
        ("category_name", index_entries(categories, "name")) if by_name else ("category_id", category_ids),
    )
    scores = np.array([entry.number("score") for entry in found], np.float64)
    regions = _regions(found, image, sizes)
    # As COCO's tools: where detections of masks have boxes too, those say what is small, medium and large.
    boxed = bool(found) and all(entry.fields.get("bbox") for entry in found)
    areas = np.array([_area(region) for region in (_regions(found, image, []) if boxed else regions)], np.float64)
    results = Detections(image, label, regions, scores, areas)
    return ScoringTables(truths, results, len(images), len(categories), iou_type == "boundary"), class_names


def _warn_of_duplicates(path: Path, objects: list[Entry]) -> None:
    """Warn of objects that are written twice: of two one stays unfound, here as in COCO's tools."""
    said = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")
    times = Counter(json.dumps([entry.fields.get(key) for key in said]) for entry in objects)
    more = sum(times.values()) - len(times)
    if more:
        words = f"{more} exact duplicates of objects" if more > 1 else "an exact duplicate of an object"
        warn(f"{path} has {words}; a detector finds one of two alone, so the scores are lower. Take them out")


def _list_detections(path: Path) -> list[Entry]:
    """The entries of a list of results, or of a dataset's annotations, whose own images and categories name them."""
    content = load_json(path)
    if not isinstance(content, dict) or "annotations" not in content:
        return list_entries(path, "detections", content)
    found = list_entries(path, "annotations", content["annotations"])
    for kind, key, own, name in (
        ("images", "image_id", "file_name", "file_name"),
        ("categories", "category_id", "name", "category_name"),
    ):
        entries = list_entries(path, kind, content.get(kind, []))
        if entries and all(own in entry for entry in entries):
            places = index_entries(entries, "id")
            for entry in found:
                entry.fields.setdefault(name, entries[places[entry.refer(key, places, path)]].text(own))
    return found


def _find_images(ground_truth: Path, images: list[Entry], found: list[Entry]) -> dict[str, int]:
    """The places of the images that the entries name by `file_name`. Raises UserError for one that is not there."""
    names, places = FileNames([image.text("file_name") for image in images]), {}
    for entry in found:
        name = entry.text("file_name")
        if name not in places:
            try:
                places[name] = names.find(name)
            except UserError as error:
                raise entry.error(f"names no image of {ground_truth}: {error}") from None
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
            column[row] = places[entry.refer(field, places, ground_truth)]
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
    return float(measure_area(region) if isinstance(region, dict) else region[2] * region[3])
