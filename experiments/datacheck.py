"""What a training split holds: sizes, and how often each class is seen. It needs no model and no run directory."""

import concurrent.futures
import dataclasses

import numpy as np
from ml_collections import ConfigDict

from experiments.errors import warn
from input_pipeline.batch import IGNORE, DataError
from input_pipeline.sources import Source, open_source

CHUNK = 256  # images handed to the threads at a time: what waits stays small, and Ctrl-C need not wait for long


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of C classes in N images, at their stored size. Pixels without a class are in `ignored` alone."""

    sizes: np.ndarray  # [N, 2] (height, width)
    pixels: np.ndarray  # [C] int64, of each class
    images: np.ndarray  # [C] int64, that hold the class
    around: np.ndarray  # [C] int64, pixels of any class in the images that hold this one
    ignored: int


def datacheck(config: ConfigDict, data_dir: str | None) -> None:
    """Prints what `config.data.train_split` holds, and weights that balance its classes.

    Raises DataError for data that cannot be used.
    """
    data = config.data
    source = open_source(data, data.train_split, data_dir)
    counts = count_labels(source, data.num_threads)
    weights = median_frequency_weights(counts)
    print("\n".join(describe(f"{data.name} {data.train_split}", source.class_names, counts, weights)))
    absent = [name for name, pixels in zip(source.class_names, counts.pixels, strict=True) if not pixels]
    if absent:
        warn(f"{data.train_split}: no pixel is {', '.join(absent)}; a class without an example gets the weight 0")
    print(f"--config.task.class_weights='({', '.join(map(_show_weight, weights))})'")


def count_labels(source: Source, num_threads: int) -> Counts:
    """Reads every example once. Raises DataError for a label that is no class of the source."""
    classes = len(source.class_names)

    def count(index: int) -> tuple[tuple[int, ...], np.ndarray]:
        label = source[index]["label"]
        values = np.bincount(label.ravel(), minlength=IGNORE + 1)
        beyond = np.flatnonzero(values[classes:IGNORE])
        if len(beyond):
            raise DataError(
                f"{source.name(index)} holds the class {classes + beyond[0]}, but {classes} are named; prepare the set again"
            )
        return label.shape, values

    sizes = np.zeros((len(source), 2), np.int64)
    pixels, images, around = np.zeros((3, classes), np.int64)
    ignored = 0
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for first in range(0, len(source), CHUNK):
            part = range(first, min(first + CHUNK, len(source)))
            for index, (size, values) in zip(part, pool.map(count, part), strict=True):
                held = values[:classes] > 0
                sizes[index] = size
                pixels += values[:classes]
                images += held
                around += held * values[:classes].sum()
                ignored += int(values[IGNORE])
    return Counts(sizes, pixels, images, around, ignored)


def median_frequency_weights(counts: Counts) -> np.ndarray:
    """Weights [C] of the classes: median(f) / f_c (Eigen and Fergus 2015), 0 for a class without an example.

    f_c is the share of class c among the pixels of the images that hold it; the median is over the classes that there are.
    """
    frequency = counts.pixels / np.maximum(counts.around, 1)
    there = frequency > 0
    weights = np.zeros(len(frequency))
    if there.any():
        weights[there] = np.median(frequency[there]) / frequency[there]
    return weights


def describe(title: str, class_names: tuple[str, ...], counts: Counts, weights: np.ndarray) -> list[str]:
    """The report's lines: the images' sizes, then a class a line."""
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
