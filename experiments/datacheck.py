"""What a training split holds: sizes, how often each class is seen, and which objects a detector can be trained on at all.

Labels are counted on demand (`--mode=datacheck`), objects before the first step of every run too: boxes that no anchor
or cell can be responsible for are the usual cause of an mAP of 0.
"""

import concurrent.futures
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from errors import UserError, warn
from experiments.command_line import Command
from experiments.proposal_recall import best_overlaps, list_counts, print_recall, summarise
from experiments.run import state as states
from experiments.run.inputs import say
from experiments.tasks.base import Task
from experiments.tasks.dense import Detection, Geometry
from experiments.tasks.registry import find_task, make_task
from files import write_atomically
from input_pipeline.augment import geometry
from input_pipeline.batch import IGNORE
from input_pipeline.objects import clip, has_area
from input_pipeline.sources import ObjectSource, Source, open_source
from input_pipeline.truths import make_truth

CHUNK = 256  # images handed to the threads at a time: what waits stays small, and Ctrl-C need not wait for long
ENOUGH = 0.95  # of the objects that can be learned; a smaller share is a warning
SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}  # COCO's least areas, in pixels of the image as stored
SHOWN = 5  # bad boxes, or classes, that a warning names


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of C classes in N images, at their stored size. Pixels without a class are in `ignored` alone."""

    sizes: np.ndarray  # [N, 2] (height, width)
    pixels: np.ndarray  # [C] int64, of each class
    images: np.ndarray  # [C] int64, that hold the class
    around: np.ndarray  # [C] int64, pixels of any class in the images that hold this one
    ignored: int


def datacheck(command: Command) -> None:
    """Prints what `config.data.train_split` holds; of labels also weights that balance their classes.

    Raises UserError for data that cannot be used.
    """
    config = command.experiment()
    data = config.data
    needs = find_task(config.task.name).needs
    source = open_source(data, data.train_split, command.data_dir, make_truth(needs, data).asks)
    say(data.train_split, source)
    if "boxes" in needs:
        print_report(check_objects(config, make_task(config, source.class_names), source))
        return
    counts = count_labels(source, data.num_threads)
    weights = median_frequency_weights(counts)
    print("\n".join(describe(f"{data.name} {data.train_split}", source.class_names, counts, weights)))
    absent = [name for name, pixels in zip(source.class_names, counts.pixels, strict=True) if not pixels]
    if absent:
        warn(f"{data.train_split}: no pixel is {', '.join(absent)}; a class without an example gets the weight 0")
    print(f"--config.task.class_weights='({', '.join(map(_show_weight, weights))})'")


def before_training(config: ConfigDict, task: Task, source: Source, workdir: pathlib.Path) -> None:
    """Checks a detector's objects once a run: what was found is printed and kept in WORKDIR/datacheck.json."""
    place = workdir / "datacheck.json"
    if "boxes" not in task.needs or place.exists():
        return
    report = check_objects(config, task, source)
    print_report(report)
    write_atomically(place, json.dumps(report, indent=2).encode() + b"\n")


def count_labels(source: Source, num_threads: int) -> Counts:
    """Reads every example once. Raises UserError for a label that is not a class of the source."""
    classes = len(source.class_names)

    def count(index: int) -> tuple[tuple[int, ...], np.ndarray]:
        label = source[index]["label"]
        values = np.bincount(label.ravel(), minlength=IGNORE + 1)
        beyond = np.flatnonzero(values[classes:IGNORE])
        if len(beyond):
            raise UserError(
                f"{source.name(index)} holds the class {classes + beyond[0]}, but {classes} are named; prepare the set again"
            )
        return label.shape, values

    sizes = np.zeros((len(source), 2), np.int64)
    pixels, images, around = np.zeros((3, classes), np.int64)
    ignored = 0
    for index, (size, values) in enumerate(_each(count, len(source), num_threads)):
        held = values[:classes] > 0
        sizes[index] = size
        pixels += values[:classes]
        images += held
        around += held * values[:classes].sum()
        ignored += int(values[IGNORE])
    return Counts(sizes, pixels, images, around, ignored)


def _each(look: Callable[[int], Any], count: int, num_threads: int) -> Iterator[Any]:
    """What `look` returns for each index, in order."""
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, count, CHUNK):
            yield from pool.map(look, range(first, min(first + CHUNK, count)))


def median_frequency_weights(counts: Counts) -> np.ndarray:
    """Weights [C] of the classes: median(f) / f_c (Eigen and Fergus 2015), 0 for a class without an example.

    f_c is the share of class c among the pixels of the images that hold it; the median is over the classes present.
    """
    frequency = counts.pixels / np.maximum(counts.around, 1)
    there = frequency > 0
    weights = np.zeros(len(frequency))
    if there.any():
        weights[there] = np.median(frequency[there]) / frequency[there]
    return weights


def describe(title: str, class_names: tuple[str, ...], counts: Counts, weights: np.ndarray) -> list[str]:
    """The report's lines: the images' sizes, then one class per line."""
    total = int(counts.pixels.sum())
    low, middle, high = (
        [f"{value:g}" for value in values]
        for values in (counts.sizes.min(0), np.median(counts.sizes, axis=0), counts.sizes.max(0))
    )
    sizes = ", ".join(
        f"{side} {low[i]} to {high[i]} (median {middle[i]})" for i, side in enumerate(("height", "width"))
    )
    ignored = counts.ignored / (total + counts.ignored)
    width = max(len("class"), *map(len, class_names))
    lines = [
        f"{title}: {len(counts.sizes)} images, {sizes}; {ignored:.2%} of the pixels have no class",
        f"{'class':{width}}  {'pixels':>15}  {'share':>7}  {'images':>7}  {'weight':>9}",
    ]
    for i, name in enumerate(class_names):
        share = counts.pixels[i] / max(total, 1)
        lines.append(
            f"{name:{width}}  {counts.pixels[i]:>15,}  {share:>7.2%}  {counts.images[i]:>7,}  {_show_weight(weights[i]):>9}"
        )
    return lines


def _show_weight(weight: float) -> str:
    return str(float(f"{weight:.4g}"))


def check_objects(config: ConfigDict, task: Detection, source: ObjectSource) -> dict[str, Any]:
    """The report on a detection split, fit for JSON. Reads every annotation once, and decodes no image.

    `matchable` is the share of the objects that the model's anchors or cells can be responsible for, where images are
    fitted to config.data.image_size without augmentation; with data.fit=crop, at the middle of config.data.augment.scale
    and in the crop with the object in its middle.
    What training leaves out is left out there too: crowds, and difficult objects where config.task.use_difficult is False.
    Where the task needs proposals, `proposals` has their recall of those objects, in the pixels of the image as stored.
    """
    data, size = config.data, tuple(config.data.image_size)
    placed = states.blueprint(config, len(source.class_names)).geometry(size)
    cropped, proposed = data.fit == "crop", "proposals" in task.needs
    zoom = float(np.sqrt(np.prod(data.augment.scale))) if cropped else 1.0

    def look(index: int) -> dict[str, np.ndarray]:
        original, objects = source.objects(index)
        matrix = geometry.scaling(zoom, zoom) @ geometry.fit(original, size, data.fit, data.margin, data.shortest)
        seen = _look(task, placed, objects, matrix, size, cropped=cropped)
        if proposed:
            proposals = source.proposals(index)
            seen["covered"] = best_overlaps(objects["boxes"], proposals, list_counts(data.max_proposals))
            seen["proposals"] = np.array([len(proposals)])
        return seen | {"bad_boxes": source.find_bad_boxes(index)}

    found = list(_each(look, len(source), data.num_threads))
    every = {name: np.concatenate([objects[name] for objects in found]) for name in found[0] if name != "bad_boxes"}
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
        "bad_boxes": [*source.bad_boxes, *(name for objects in found for name in objects["bad_boxes"])],
        "clipped_boxes": source.clipped_boxes,
        "padding": {
            "max_boxes": data.max_boxes,
            "images": int((beyond > 0).sum()),
            "objects_lost": int(beyond.sum()),
        },
        "classes": {name: counted(every["classes"] == index) for index, name in enumerate(source.class_names)},
        "sizes": {name: counted(chosen) for name, chosen in of_size.items()},
        "network_pixels": {name: _quartiles(every[name]) for name in ("height", "width")},
        "matchable": matchable(every["learned"]),
        "advice": task.advice,
    }
    if proposed:
        held = every["proposals"].tolist()
        report["proposals"] = summarise(every["covered"][every["learned"]], held, data.max_proposals)
    return report


def _look(
    task: Detection, placed: Geometry, objects: dict, matrix: np.ndarray, size: tuple[int, int], *, cropped: bool
) -> dict[str, np.ndarray]:
    """An image's objects as the network of input `size` sees them; `matrix` maps the image to it, or to the middle crop."""
    scale = np.array([matrix[1, 1], matrix[0, 0]])
    boxes = objects["boxes"] * np.tile(scale, 2) + np.tile([matrix[1, 2], matrix[0, 2]], 2)
    learned, matched = task.learns(objects), np.zeros(len(boxes), bool)
    match = partial(_match_in_crops, task) if cropped else task.matchable
    matched[learned] = match(placed, boxes[learned], size)
    height, width = (boxes[:, 2:] - boxes[:, :2]).T
    return {name: objects[name] for name in ("classes", "crowd", "difficult", "area")} | {
        "learned": learned,
        "height": height,
        "width": width,
        "matchable": matched,
    }


def _match_in_crops(task: Detection, placed: Geometry, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether each of `boxes` [M,4] is matchable [M] in a crop of `size` around its centre, among what else is seen there."""
    matched = np.zeros(len(boxes), bool)
    for index, centre in enumerate((boxes[:, :2] + boxes[:, 2:]) / 2):
        corner = centre - np.array(size) / 2
        seen = clip(boxes - np.tile(corner, 2), (0, 0, *size))
        kept = has_area(seen)
        matched[index] = task.matchable(placed, seen[kept], size)[np.count_nonzero(kept[:index])]
    return matched


def _quartiles(values: np.ndarray) -> list[float]:
    """Least, lower quartile, median, upper quartile, largest; empty where there is nothing."""
    return np.percentile(values, (0, 25, 50, 75, 100)).round(2).tolist() if len(values) else []


def print_report(report: dict[str, Any]) -> None:
    """Prints a report on objects, and warns of what will reduce the precision."""
    per_image, padding = report["objects_per_image"], report["padding"]
    print(
        f"{report['split']}: {report['images']} images ({report['images_without_objects']} without objects), "
        f"{report['objects']} objects, {per_image['mean']:.1f} per image and {per_image['most']} at most; "
        f"{report['crowd']} crowds, {report['difficult']} difficult, "
        f"{len(report['bad_boxes'])} bad boxes dropped, {report['clipped_boxes']} clipped to their image"
    )
    width = max(map(len, ["class", *report["classes"], *SIZES]))
    for kind, rows in (("class", report["classes"]), ("size", report["sizes"])):
        print(f"{kind:{width}}  {'objects':>9}  {'images':>9}  {'matchable':>9}")
        for name, row in rows.items():
            print(f"{name:{width}}  {row['objects']:>9,}  {row['images']:>9,}  {_share(row['matchable']):>9}")
    for side, values in report["network_pixels"].items():
        if values:
            print(f"{side} in network pixels: {values[0]:g} to {values[4]:g}, median {values[2]:g}")
    print(f"padding: {padding['max_boxes']} objects per image")
    if report["bad_boxes"]:
        warn(f"bad boxes were dropped: {_name(report['bad_boxes'], '; ')}")
    absent = [name for name, row in report["classes"].items() if not row["learned"]]
    if absent:
        warn(f"{report['split']} has no training object of {_name(absent, ', ')}: such a class cannot be learned")
    if padding["objects_lost"]:
        warn(
            f"{padding['objects_lost']} objects in {padding['images']} images are beyond "
            f"config.data.max_boxes={padding['max_boxes']}, of each image the smallest; {per_image['most']} holds all"
        )
    share = report["matchable"]
    if share is None:
        warn(f"{report['split']} has no training object")
    else:
        print(f"matchable: {_share(share)} of the objects")
        if share < ENOUGH:
            warn(f"only {_share(share)} of the objects can be matched by this model at this size; {report['advice']}")
    if "proposals" in report:
        print_recall(report["proposals"])


def _name(names: list[str], separator: str) -> str:
    """The first few; the others are counted."""
    others = len(names) - SHOWN
    return separator.join(names[:SHOWN]) + (f" (and {others} more)" if others > 0 else "")


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
