"""Counts of each class in a split's labels, and weights that balance the classes."""

import dataclasses

import numpy as np

from errors import UserError
from experiments.reading import read_each
from input_pipeline.batch import IGNORE
from input_pipeline.sources import Source
from wording import count


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of C classes in N images, at their stored size. Unlabelled pixels are in `ignored` alone."""

    sizes: np.ndarray  # [N, 2] (height, width)
    pixels: np.ndarray  # [C] int64, of each class
    images: np.ndarray  # [C] int64, those with the class
    around: np.ndarray  # [C] int64, pixels of any class in the images with this class
    ignored: int


def count_labels(source: Source, num_threads: int) -> Counts:
    """Read every example once. Raise UserError for a label that is not a class of the source."""
    classes = len(source.class_names)

    def look(index: int) -> tuple[tuple[int, ...], np.ndarray]:
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
    for index, (size, values) in enumerate(read_each(look, len(source), num_threads)):
        held = values[:classes] > 0
        sizes[index] = size
        pixels += values[:classes]
        images += held
        around += held * values[:classes].sum()
        ignored += int(values[IGNORE])
    return Counts(sizes, pixels, images, around, ignored)


def median_frequency_weights(counts: Counts) -> np.ndarray:
    """Return the weights [C] of the classes, median(f) / f_c (Eigen and Fergus 2015), 0 for a class without an example.

    f_c is the share of class c among the pixels of the images with this class. The median is over the classes present.
    """
    frequency = counts.pixels / np.maximum(counts.around, 1)
    there = frequency > 0
    weights = np.zeros(len(frequency))
    if there.any():
        weights[there] = np.median(frequency[there]) / frequency[there]
    return weights


def describe(title: str, class_names: tuple[str, ...], counts: Counts) -> list[str]:
    """Return the report's lines, first the images' sizes, then one class per line."""
    weights = median_frequency_weights(counts)
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
        f"{title}: {count(len(counts.sizes), 'image')}, {sizes}; {ignored:.2%} of the pixels have no class",
        f"{'class':{width}}  {'pixels':>15}  {'share':>7}  {'images':>7}  {'weight':>9}  {'root':>9}",
    ]
    for i, name in enumerate(class_names):
        pixels, share = counts.pixels[i], counts.pixels[i] / max(total, 1)
        shown = f"{_show_weight(weights[i]):>9}  {_show_weight(weights[i] ** 0.5):>9}"
        lines.append(f"{name:{width}}  {pixels:>15,}  {share:>7.2%}  {counts.images[i]:>7,}  {shown}")
    return lines


def list_flags(weights: np.ndarray) -> list[str]:
    """Return median-frequency weights [C] and their square roots as flags to paste, each below a line that names it."""
    kinds = {"median frequency": weights, "its square root, milder": np.sqrt(weights)}
    return [
        line
        for kind, own in kinds.items()
        for line in (f"{kind}:", f"--config.task.class_weights='({', '.join(map(_show_weight, own))})'")
    ]


def _show_weight(weight: float) -> str:
    return str(float(f"{weight:.4g}"))
