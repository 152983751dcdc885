"""Reads ground truth and detections from files in COCO's formats. An error is one line that names the file and the entry."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from errors import UserError, warn
from experiments.metrics.precision import Detections, Regions, ScoringTables, Truths
from input_pipeline.annotations.coco_json import Entry, index_entries, list_entries, load_json
from input_pipeline.annotations.file_names import FileNames
from input_pipeline.annotations.masks import measure_area


def read(ground_truth: Path, detections: Path, iou_type: str) -> tuple[ScoringTables, list[str]]:
    """Read COCO's two files. Return the tables to score, sorted by image id, and the categories' names, sorted by id.

    `iou_type` is bbox, segm or boundary. If every detection has a file_name or a category_name, it refers to its image or its
    category by that name, otherwise by the id; see FileNames. Raises UserError naming the file and the entry.
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
    class_names = [str(name) for name in index_entries(categories, "name")]  # raises for two of one name
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
    # As in COCO's tools: if detections of masks also have boxes, the boxes' areas decide what is small, medium and large.
    boxed = bool(found) and all(entry.fields.get("bbox") for entry in found)
    areas = np.array([_area(region) for region in (_regions(found, image, []) if boxed else regions)], np.float64)
    results = Detections(image, label, regions, scores, areas)
    return ScoringTables(truths, results, len(images), len(categories), iou_type == "boundary"), class_names


def _warn_of_duplicates(path: Path, objects: list[Entry]) -> None:
    """Warn of objects that are written twice. A detector can find only one of the two, here as in COCO's tools."""
    said = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")
    times = Counter(json.dumps([entry.fields.get(key) for key in said]) for entry in objects)
    more = sum(times.values()) - len(times)
    if more:
        words = f"{more} exact duplicates of objects" if more > 1 else "an exact duplicate of an object"
        warn(f"{path} has {words}; a detector finds one of two alone, so the scores are lower. Remove them")


def _list_detections(path: Path) -> list[Entry]:
    """Return the entries of a list of results, or of a dataset's annotations.

    In a dataset, the file's own images and categories give an entry its file_name and category_name.
    """
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


def _find_images(ground_truth: Path, images: list[Entry], found: list[Entry]) -> dict[int | str, int]:
    """Return the places of the images that the entries name by `file_name`. Raises UserError for an unknown name."""
    names = FileNames([image.text("file_name") for image in images])
    places: dict[int | str, int] = {}
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
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], list[Entry]]:
    """Return the image and the category of each entry as places, and the entries, all sorted by image.

    `references` are for image and category the entry's field, and the places by the field's value. Raises UserError for
    unknown values.
    """
    columns = np.zeros((2, len(entries)), int)
    for row, entry in enumerate(entries):
        for column, (field, places) in zip(columns, references, strict=True):
            column[row] = places[entry.refer(field, places, ground_truth)]
    order = np.argsort(columns[0], kind="stable")
    return *columns[:, order], [entries[place] for place in order]


def _regions(entries: list[Entry], image: Int[np.ndarray, " n"], sizes: Sequence[tuple[int, int]]) -> Regions:
    """Return the boxes of the entries, or their masks if `sizes` (height, width) of the images are given."""
    if not sizes:
        return np.array([entry.box() for entry in entries], np.float64).reshape(-1, 4)
    regions = np.empty(len(entries), object)
    regions[:] = [entry.mask(*sizes[place]) for entry, place in zip(entries, image.tolist(), strict=True)]
    return regions


def _area(region: Float[np.ndarray, "4"] | dict) -> float:
    return float(measure_area(region) if isinstance(region, dict) else region[2] * region[3])
