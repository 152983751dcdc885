"""A report on a training split's objects, the share of them that a detector can match, and fields that match more."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
from ml_collections import ConfigDict

from errors import warn
from experiments.box_fitting import fit_boxes, make_blueprint, write_flags
from experiments.proposal_recall import best_overlaps, list_counts, print_recall, summarise, warn_of_recall
from experiments.reading import read_each
from experiments.tasks.dense import Detection, Geometry
from input_pipeline.augment import geometry
from input_pipeline.objects import clip, has_area
from input_pipeline.sources import ObjectSource, ProposalSource, Source
from wording import count, count_being, name_some

ENOUGH = 0.95  # share of the training objects; if fewer are matchable, a warning says so
SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}  # COCO's least areas, in pixels of the image as stored
SHOWN = 5  # bad boxes, or classes, that a warning names


def check_objects(config: ConfigDict, task: Detection, source: Source, *, always_fit: bool = False) -> dict[str, Any]:
    """Return the report on a detection split, fit for JSON. Read every annotation once, and decode no image.

    `matchable` is the share of the objects that the model's anchors or cells can match, with images fitted to
    config.data.image_size and not augmented; with data.fit=crop, at the middle of config.data.augment.scale, in the crop
    with the object in its middle. It leaves out the same objects as training: crowds, and difficult objects if
    config.task.use_difficult is False. `fitted` has the result of `fit_boxes` if few objects are matchable or if
    `always_fit` is set, else None. If the task needs proposals, `proposals` has their recall of those objects, in pixels
    of the stored image.
    """
    annotated, searched = cast(ObjectSource, source), cast(ProposalSource, source)  # the task has asked for boxes
    data, size = config.data, tuple(config.data.image_size)
    placed = make_blueprint(config, len(source.class_names)).geometry(size)
    cropped, proposed = data.fit == "crop", "proposals" in task.needs
    zoom = float(np.sqrt(np.prod(data.augment.scale))) if cropped else 1.0

    def look(index: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        original, objects = annotated.objects(index)
        matrix = geometry.scaling(zoom, zoom) @ geometry.fit(original, size, data.fit, data.margin, data.shortest)
        seen = _look(task, placed, objects, matrix, size, cropped=cropped)
        if proposed:
            proposals = searched.proposals(index)
            seen["covered"] = best_overlaps(objects["boxes"], proposals, list_counts(data.max_proposals))
            seen["proposals"] = np.array([len(proposals)])
        return seen, annotated.find_bad_boxes(index)

    found, bad_boxes = zip(*read_each(look, len(source), data.num_threads), strict=True)
    every = {name: np.concatenate([objects[name] for objects in found]) for name in found[0]}
    image = np.repeat(np.arange(len(found)), [len(objects["classes"]) for objects in found])
    counts = np.bincount(image, minlength=len(found))
    beyond = np.maximum(counts - data.max_boxes, 0)
    bounds = [*SIZES.values(), np.inf]

    def matchable(chosen: np.ndarray) -> float | None:
        chosen = chosen & every["learned"]
        return float(every["matchable"][chosen].mean()) if chosen.any() else None

    def counted(chosen: np.ndarray) -> dict[str, Any]:
        images = len(np.unique(image[chosen]))
        learned = int((chosen & every["learned"]).sum())
        return {"objects": int(chosen.sum()), "learned": learned, "images": images, "matchable": matchable(chosen)}

    of_size = {
        name: (every["area"] >= low) & (every["area"] < high)
        for (name, low), high in zip(SIZES.items(), bounds[1:], strict=True)
    }
    report = {
        "split": f"{data.name} {data.train_split}",
        "images": len(found),
        "images_without_objects": int((counts == 0).sum()),
        "objects": len(image),
        "objects_per_image": {"mean": float(counts.mean()), "most": int(counts.max())},
        "crowd": int(every["crowd"].sum()),
        "difficult": int(every["difficult"].sum()),
        "bad_boxes": [*source.bad_boxes, *(name for names in bad_boxes for name in names)],
        "clipped_boxes": annotated.clipped_boxes,
        "padding": {
            "max_boxes": data.max_boxes,
            "images": int((beyond > 0).sum()),
            "objects_lost": int(beyond.sum()),
        },
        "classes": {name: counted(every["classes"] == index) for index, name in enumerate(source.class_names)},
        "sizes": {name: counted(chosen) for name, chosen in of_size.items()},
        "network_pixels": {name: _quartiles(every[name]) for name in ("height", "width")},
        "matchable": (share := matchable(every["learned"])),
        "advice": task.advice,
        "fitted": None,
    }
    if share is not None and (always_fit or share < ENOUGH):
        report["fitted"] = fit_boxes(config, task, len(source.class_names), every["seen"][every["learned"]], ENOUGH)
    if proposed:
        held = every["proposals"].tolist()
        report["proposals"] = summarise(every["covered"][every["learned"]], held, data.max_proposals)
    return report


def _look(
    task: Detection, placed: Geometry, objects: dict, matrix: np.ndarray, size: tuple[int, int], *, cropped: bool
) -> dict[str, np.ndarray]:
    """Return an image's objects as a network with inputs of `size` sees them.

    `matrix` maps the image to the input, or with `cropped` to the middle crop.
    """
    scale = np.array([matrix[1, 1], matrix[0, 0]])
    boxes = objects["boxes"] * np.tile(scale, 2) + np.tile([matrix[1, 2], matrix[0, 2]], 2)
    learned, matched = task.learns(objects), np.zeros(len(boxes), bool)
    match = partial(_match_in_crops, task) if cropped else task.matchable
    matched[learned] = match(placed, boxes[learned], size)
    seen = clip(boxes - np.tile(_corner(boxes, size), 2), (0, 0, *size)) if cropped else boxes
    height, width = (boxes[:, 2:] - boxes[:, :2]).T
    return {name: objects[name] for name in ("classes", "crowd", "difficult", "area")} | {
        "learned": learned,
        "seen": seen,
        "height": height,
        "width": width,
        "matchable": matched,
    }


def _match_in_crops(task: Detection, placed: Geometry, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return whether each of `boxes` [M,4] is matchable [M] in a crop of `size` around it, with the other boxes there."""
    matched = np.zeros(len(boxes), bool)
    for index, corner in enumerate(_corner(boxes, size)):
        seen = clip(boxes - np.tile(corner, 2), (0, 0, *size))
        kept = has_area(seen)
        matched[index] = task.matchable(placed, seen[kept], size)[np.count_nonzero(kept[:index])]
    return matched


def _corner(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the top left corner [M,2] of the crop of `size` around the centre of each of boxes [M,4]."""
    return (boxes[:, :2] + boxes[:, 2:] - size) / 2


def _quartiles(values: np.ndarray) -> list[float]:
    """Return the minimum, the quartiles and the maximum, [] if there are no values."""
    return np.percentile(values, (0, 25, 50, 75, 100)).round(2).tolist() if len(values) else []


def print_report(report: dict[str, Any]) -> None:
    """Print a report of `check_objects`, and warn of everything that will reduce the precision."""
    per_image, padding = report["objects_per_image"], report["padding"]
    print(
        f"{report['split']}: {count(report['images'], 'image')} ({report['images_without_objects']} without objects), "
        f"{count(report['objects'], 'object')}, {per_image['mean']:.1f} per image and {per_image['most']} at most; "
        f"{count(report['crowd'], 'crowd')}, {report['difficult']} difficult, "
        f"{count(len(report['bad_boxes']), 'bad box')} dropped, {report['clipped_boxes']} clipped to their image"
    )
    width = max(map(len, ["class", *report["classes"], *SIZES]))
    for kind, rows in (("class", report["classes"]), ("size", report["sizes"])):
        print(f"{kind:{width}}  {'objects':>9}  {'images':>9}  {'matchable':>9}")
        for name, row in rows.items():
            print(f"{name:{width}}  {row['objects']:>9,}  {row['images']:>9,}  {_share(row['matchable']):>9}")
    for side, values in report["network_pixels"].items():
        if values:
            print(f"{side} in network pixels: {values[0]:g} to {values[4]:g}, median {values[2]:g}")
    print(f"padding: {count(padding['max_boxes'], 'object')} per image")
    if report["matchable"] is not None:
        print(f"matchable: {_share(report['matchable'])} of the objects")
    if "proposals" in report:
        print_recall(report["proposals"])
    warn_of_objects(report)


def warn_of_objects(report: Mapping[str, Any]) -> None:
    """Warn of what will reduce the precision, by a report on objects."""
    per_image, padding = report["objects_per_image"], report["padding"]
    if report["bad_boxes"]:
        warn(f"bad boxes were dropped: {name_some(report['bad_boxes'], SHOWN, '; ')}")
    absent = [name for name, row in report["classes"].items() if not row["learned"]]
    if absent:
        warn(f"{report['split']} has no training object of {name_some(absent, SHOWN)}: such a class cannot be learned")
    if padding["objects_lost"]:
        warn(
            f"{count(padding['objects_lost'], 'object')} in {count_being(padding['images'], 'image')} beyond "
            f"config.data.max_boxes={padding['max_boxes']}, of each image the smallest; {per_image['most']} holds all"
        )
    share = report["matchable"]
    if share is None:
        warn(f"{report['split']} has no training object")
    elif share < ENOUGH:
        warn(f"only {_share(share)} of the objects can be matched by this model at this size; {_remedy(report)}")
    if "proposals" in report:
        warn_of_recall(report["proposals"])


def _remedy(report: Mapping[str, Any]) -> str:
    """Return the remedy for few matchable objects, with better values to paste if there are some."""
    fitted = report["fitted"]
    if fitted is None:
        return report["advice"]
    if fitted["matchable"] <= report["matchable"]:
        return "its boxes fit them as well as they can: enlarge config.data.image_size"
    said = f"{_share(fitted['matchable'])} with {write_flags(fitted['fields'])}"
    return said if fitted["matchable"] >= ENOUGH else f"{said}; for more, enlarge config.data.image_size"


def list_box_flags(report: Mapping[str, Any]) -> list[str]:
    """Return the fitted fields as flags to paste, below a line with the share that they match, [] if none were fitted."""
    fitted, share = report["fitted"], report["matchable"]
    if fitted is None or (share < ENOUGH and fitted["matchable"] <= share):
        return []
    enough = "those of the model match enough; " if share >= ENOUGH else ""
    return [
        f"boxes: {enough}fitted to these objects by k-means, {_share(fitted['matchable'])} matchable:",
        write_flags(fitted["fields"]),
    ]


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
