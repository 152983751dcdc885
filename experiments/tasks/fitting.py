"""Boxes of a detector that fit given objects: k-means over the objects' sizes and shapes, on the host.

A size is the root of a box's area, a shape its width / height; both are clustered by their logarithms, in which a factor is a
distance. No step is random.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

STEPS = 50  # of k-means at most; a few settle it
LEAST_STEP = np.log(1.15)  # between sizes: of objects that are all alike, nearer ones would be one box twice
ROUND = np.log(1.25)  # shapes nearer to a square than this are left to the squares


def measure(boxes: np.ndarray, unit: Sequence[float] = (1.0, 1.0)) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logarithms of sizes [N] and shapes [N] of boxes [N,4], whose sides count in `unit` (height, width)."""
    height, width = ((boxes[:, 2:] - boxes[:, :2]) / np.asarray(unit)).T
    return np.log(height * width) / 2, np.log(width / height)


def cluster(values: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` rising centres of `values` [N] with `weights` [N]: k-means (Lloyd's), from the values' quantiles.

    A centre without values stays where it is.
    """
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    shares = (np.cumsum(weights) - weights / 2) / weights.sum()
    centres = np.interp((np.arange(count) + 0.5) / count, shares, values)
    for _ in range(STEPS):
        own = np.abs(values[:, None] - centres).argmin(1)
        total = np.bincount(own, weights, count)
        means = np.bincount(own, weights * values, count) / np.where(total, total, 1.0)
        moved = np.where(total, means, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.sort(centres)


def propose_default_boxes(
    boxes: np.ndarray, weights: np.ndarray, size: tuple[int, int], maps: int
) -> Iterator[dict[str, Any]]:
    """Yields `sizes` of SSD's default boxes on a number of `maps`, then `sizes` and `ratios`, few ratios first.

    boxes [N,4] are in pixels of an input of `size`, and have `weights` [N]. The first maps, 1, 2 ... or all, share the centres of
    the objects' sizes; those that are too coarse for the objects go on from there.
    """
    sizes, shapes = measure(boxes, size)
    long = (np.abs(shapes) > ROUND) & (weights > 0)
    for ratios, fine in itertools.product((0, 1, 2) if long.any() else (0,), range(1, maps + 1)):
        centres = cluster(sizes, weights, fine + 1)
        centres = np.concatenate([centres, centres[-1] + np.log(1.5) * np.arange(1, maps - fine + 1)])
        for place in range(1, len(centres)):
            centres[place] = max(centres[place], centres[place - 1] + LEAST_STEP)
        fields = {"sizes": _round(np.exp(centres))}
        if ratios:
            wide = np.unique(_round(np.exp(cluster(np.abs(shapes[long]), weights[long], ratios))))
            fields["ratios"] = (tuple(wide.tolist()),) * maps
        yield fields


def propose_anchors(
    boxes: np.ndarray, weights: np.ndarray, strides: Sequence[int], octaves: int, *, spans: bool
) -> Iterator[dict[str, Any]]:
    """Yields `scale` of the anchors of a pyramid's levels for their own `octaves`, then that with `octaves` and `ratios`.

    boxes [N,4] are in pixels, and have `weights` [N]; few anchors come first. Where there is one level and the model `spans`,
    its `span` is fitted too.
    """
    sizes, shapes = measure(boxes)
    levels, spans = np.log(strides), spans and len(strides) == 1
    for count, ratios in [(octaves, 0), *itertools.product((1, 2, 3), (1, 3, 5))]:
        offset, span = _fit_ladder(sizes, weights, levels, count, free=spans)
        fields = {"scale": _round([np.exp(offset)])[0]} | ({"span": _round([span])[0]} if spans else {})
        if ratios:
            wide = np.unique(_round(np.exp(cluster(shapes, weights, ratios))))
            fields |= {"octaves": count, "ratios": tuple(wide.tolist())}
        yield fields


def _fit_ladder(
    sizes: np.ndarray, weights: np.ndarray, levels: np.ndarray, octaves: int, *, free: bool
) -> tuple[float, float]:
    """Returns the logarithm of the scale, and the span: k-means whose centres are a ladder that moves as a whole.

    The centres are offset + level + span * log(2) * octave / octaves. The finest begins at the smallest objects; the span is
    1, or moves too where it is `free`.
    """
    octave = np.tile(np.arange(octaves), len(levels)) * np.log(2) / octaves
    level = np.repeat(levels, octaves)
    ends = np.quantile(sizes[weights > 0], (0.05, 0.95))
    span = 1.0
    if free and octaves > 1:
        span = max((ends[1] - ends[0]) / octave[-1], 0.5)
    offset = ends[0] - level[0]
    for _ in range(STEPS):
        own = np.abs(sizes[:, None] - (offset + level + span * octave)).argmin(1)
        before = offset, span
        if free and octaves > 1 and len(np.unique(own)) > 1:
            span, offset = np.polyfit(octave[own], sizes - level[own], 1, w=np.sqrt(weights))
        else:
            offset = np.average(sizes - level[own] - span * octave[own], weights=weights)
        if np.allclose(before, (offset, span), rtol=0, atol=1e-6):
            break
    return float(offset), float(span)


def _round(values: np.ndarray | Sequence[float]) -> tuple[float, ...]:
    """Three digits: what a person can read, and more than an overlap tells apart."""
    return tuple(float(f"{value:.3g}") for value in values)
