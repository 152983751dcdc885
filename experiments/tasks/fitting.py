"""Anchors that fit given objects, by k-means over the objects' sizes and shapes on the host.

The size of a box is the square root of its area, and its shape is width / height. Both are clustered by their logarithms, so
that equal factors are equal distances. No step is random.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Real

STEPS = 50  # of k-means at most; it converges after a few
LEAST_STEP = np.log(1.15)  # between sizes: if all objects are alike, nearer sizes would repeat one box
ROUND = np.log(1.25)  # squares cover the shapes that are nearer to a square than this


def measure(
    boxes: Real[np.ndarray, "n 4"], unit: Sequence[float] = (1.0, 1.0)
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the logarithms of sizes and of shapes, with sides in units of `unit` (height, width)."""
    height, width = ((boxes[:, 2:] - boxes[:, :2]) / np.asarray(unit)).T
    return np.log(height * width) / 2, np.log(width / height)


def cluster(
    values: Real[np.ndarray, " n"], weights: Real[np.ndarray, " n"], count: int
) -> Float[np.ndarray, " {count}"]:
    """Return `count` ascending centres of weighted values by k-means (Lloyd's), which starts at the values' quantiles.

    A centre without values stays in place.
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
    boxes: Real[np.ndarray, "n 4"], weights: Real[np.ndarray, " n"], size: tuple[int, int], maps: int
) -> Iterator[dict[str, Any]]:
    """Yield `sizes` of SSD's default boxes on a number of `maps`, then `sizes` and `ratios`, few ratios first.

    The boxes are in pixels of an input of `size`. The first 1, 2, ... or all maps get the centres of the objects' sizes. The
    maps after them are too coarse for the objects and get growing sizes.
    """
    sizes, shapes = measure(boxes, size)
    long = (np.abs(shapes) > ROUND) & (weights > 0)
    for ratios, fine in itertools.product((0, 1, 2) if long.any() else (0,), range(1, maps + 1)):
        centres = cluster(sizes, weights, fine + 1)
        centres = np.concatenate([centres, centres[-1] + np.log(1.5) * np.arange(1, maps - fine + 1)])
        for place in range(1, len(centres)):
            centres[place] = max(centres[place], centres[place - 1] + LEAST_STEP)
        fields: dict[str, Any] = {"sizes": _round(np.exp(centres))}
        if ratios:
            wide = np.unique(_round(np.exp(cluster(np.abs(shapes[long]), weights[long], ratios))))
            fields["ratios"] = (tuple(wide.tolist()),) * maps
        yield fields


def propose_anchors(
    boxes: Real[np.ndarray, "n 4"],
    weights: Real[np.ndarray, " n"],
    strides: Sequence[int],
    octaves: int,
    *,
    spans: bool,
) -> Iterator[dict[str, Any]]:
    """Yield `scale` of a pyramid's anchors for the given `octaves`, then `scale`, `octaves` and `ratios`.

    The boxes are in pixels. Few anchors come first. If `spans` is set and the pyramid has one level, `span` is fitted too.
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
    sizes: Float[np.ndarray, " n"],
    weights: Real[np.ndarray, " n"],
    levels: Float[np.ndarray, " levels"],
    octaves: int,
    *,
    free: bool,
) -> tuple[float, float]:
    """Return the logarithm of the scale, and the span, by k-means whose centres keep their distances.

    The centres are offset + level + span * log(2) * octave / octaves. The finest one starts at the smallest objects. The span
    is 1, or is fitted too if it is `free`.
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


def _round(values: Float[np.ndarray, " n"] | Sequence[float]) -> tuple[float, ...]:
    """Round to three digits, which a person can read and which change no IoU noticeably."""
    return tuple(float(f"{value:.3g}") for value in values)
