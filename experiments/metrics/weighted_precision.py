"""Average precision of samples that contain some images several times and others not at all, as a bootstrap draws them.

The detections of each image are matched once. A sample then needs only the sums of its images' weights along the ranking: a
detection that is `w` times in the sample finds `w` objects. Of equal scores the earlier image ranks first.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Num

from experiments.metrics import precision
from experiments.metrics.base import mean_defined
from experiments.metrics.precision import COCO_IOUS, VOC_IOU, ScoringTables

RECALLS = np.linspace(0, 1, 101)
CELLS = 2**22  # numbers that are processed at a time, 8 bytes each
Weights = Integer[np.ndarray, "r n"]  # how often a sample contains an image
Samples = tuple[dict[str, Float[np.ndarray, " r"]], dict[str, Float[np.ndarray, "r c"]]]  # of the split, of each class
# The number of objects found after each hit, ascending, and the largest precision there or later.
Curve = tuple[Int[np.ndarray, "r hits"], Float[np.ndarray, "r hits"]]


def coco(tables: ScoringTables, weights: Weights) -> Samples:
    """Return AP, AP50, AP75 and AR at the largest number of detections, and the per-class AP and AP50.

    If all weights are 1, the scores are those of `precision.coco`.
    """
    found, ignored = match(tables, COCO_IOUS)
    objects = _count_objects(tables, ~tables.truths.crowd)
    scores = np.full((len(COCO_IOUS), len(weights), tables.classes), np.nan)
    recalls = scores.copy()
    for rows, index, ranked, own in _ranked(tables, weights):
        positives = own @ objects[:, index]
        there = positives > 0
        times = own[:, tables.detections.image[ranked]]
        places = np.cumsum(times, axis=1)
        for level, (hits, out) in enumerate(zip(found[:, ranked], ignored[:, ranked], strict=True)):
            skipped = _sum_before(times[:, out], np.flatnonzero(out), np.flatnonzero(hits))
            curve = _draw_curve(times[:, hits], places[:, hits] - skipped)
            values = _at(curve, _least(positives, RECALLS)).mean(1)
            total = curve[0][:, -1] if hits.any() else 0
            scores[level, rows, index] = np.where(there, values, np.nan)
            with np.errstate(invalid="ignore", divide="ignore"):
                recalls[level, rows, index] = np.where(there, total / positives, np.nan)

    def mean(values: Float[np.ndarray, "ious r c"]) -> Float[np.ndarray, " r"]:  # the same classes are nan at each IoU
        return mean_defined(np.moveaxis(values, 0, -1).reshape(values.shape[1], -1))

    half, three_quarters = (scores[[COCO_IOUS.index(iou)]] for iou in (0.5, 0.75))
    whole = {"AP": mean(scores), "AP50": mean(half), "AP75": mean(three_quarters), f"AR{tables.most}": mean(recalls)}
    return whole, {"AP": scores.mean(0), "AP50": half[0]}


def voc07(tables: ScoringTables, weights: Weights) -> Samples:
    """Return mAP and the per-class AP, as `precision.voc07` computes them."""

    def average(curve: Curve, positives: Int[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
        needed = np.maximum(1, -(-np.arange(11) * positives[:, None] // 10))
        return _at(curve, needed).sum(1) / 11

    return _voc(tables, weights, average)


def voc12(tables: ScoringTables, weights: Weights) -> Samples:
    """Return mAP and the per-class AP, as `precision.voc12` computes them."""

    def average(curve: Curve, positives: Int[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
        gained = np.diff(curve[0], axis=1, prepend=0)
        return (gained * curve[1]).sum(1) / np.maximum(positives, 1)

    return _voc(tables, weights, average)


def _voc(
    tables: ScoringTables,
    weights: Weights,
    average: Callable[[Curve, Int[np.ndarray, " r"]], Float[np.ndarray, " r"]],
) -> Samples:
    found, false = precision.match(tables, VOC_IOU)
    objects = _count_objects(tables, ~tables.truths.crowd & ~tables.truths.difficult)
    scores = np.full((len(weights), tables.classes), np.nan)
    for rows, index, ranked, own in _ranked(tables, weights):
        positives = own @ objects[:, index]
        ranked = ranked[(found | false)[ranked]]
        hits = found[ranked]
        times = own[:, tables.detections.image[ranked]]
        curve = _draw_curve(times[:, hits], np.cumsum(times, axis=1)[:, hits])
        scores[rows, index] = np.where(positives > 0, average(curve, positives), np.nan)
    return {"mAP": mean_defined(scores)}, {"AP": scores}


def match(
    tables: ScoringTables, ious: tuple[float, ...]
) -> tuple[Bool[np.ndarray, "ious d"], Bool[np.ndarray, "ious d"]]:
    """Return for each IoU which detections find an object, and which are ignored, as COCO's tools do.

    For each class and image the `most` best detections are matched by descending score. Each gets the remaining object that it
    overlaps most, or else a crowd. Detections of a crowd are ignored, and so are all but the `most` best.
    """
    truths, detections = tables.truths, tables.detections
    found = np.zeros((len(ious), detections.image.size), bool)
    ignored = found.copy()
    least = np.minimum(ious, 1 - 1e-10)[:, None]
    levels = np.arange(len(ious))
    keys = [table.image * tables.classes + table.label for table in (truths, detections)]
    for ours in _split(keys[1]):
        if len(ours) > tables.most:
            ignored[:, ours[np.argsort(-detections.score[ours], kind="stable")[tables.most :]]] = True
    for theirs, ours in precision.pairs(*keys):
        ours = ours[np.argsort(-detections.score[ours], kind="stable")][: tables.most]
        overlaps, crowd = precision.measure_overlaps(tables, ours, theirs), truths.crowd[theirs]
        left = np.tile(~crowd, (len(ious), 1))
        near = overlaps.max(1) >= least[0]
        for detection, own in zip(ours[near], overlaps[near], strict=True):
            reached = own >= least
            best = _last_largest(np.where(left & reached, own, -1))
            finds = best >= 0
            found[finds, detection] = True
            left[levels[finds], best[finds]] = False
            ignored[:, detection] = ~finds & (reached & crowd).any(1)
    return found, ignored


def _last_largest(values: Num[np.ndarray, "rows columns"]) -> Int[np.ndarray, " rows"]:
    """Return the column of the largest value in each row, the last of equal ones, and -1 if none is 0 or more."""
    best = values.shape[1] - 1 - values[:, ::-1].argmax(1)
    return np.where(values.max(1) >= 0, best, -1)


def _count_objects(tables: ScoringTables, counted: Bool[np.ndarray, " objects"]) -> Int[np.ndarray, "n c"]:
    """Return the number of counted objects for each image and class."""
    counts = np.zeros((tables.images, tables.classes), np.int64)
    np.add.at(counts, (tables.truths.image[counted], tables.truths.label[counted]), 1)
    return counts


def _ranked(
    tables: ScoringTables, weights: Weights
) -> Iterator[tuple[slice, int, Int[np.ndarray, " _"], Int[np.ndarray, "_ n"]]]:
    """Yield the rows of some samples, a class, its detections by descending score, and the samples' weights.

    As many samples as fit into memory are yielded together.
    """
    order = np.argsort(-tables.detections.score, kind="stable")
    label = tables.detections.label[order]
    for index in range(tables.classes):
        ranked = order[label == index]
        step = max(1, CELLS // max(1, len(ranked)))
        for first in range(0, len(weights), step):
            rows = slice(first, first + step)
            yield rows, index, ranked, weights[rows].astype(np.int64)


def _sum_before(
    times: Int[np.ndarray, "r p"], places: Int[np.ndarray, " p"], ends: Int[np.ndarray, " e"]
) -> Int[np.ndarray, "r e"]:
    """Return the sums of `times` whose `places` are before each of `ends`."""
    sums = np.concatenate([np.zeros((len(times), 1), times.dtype), np.cumsum(times, axis=1)], axis=1)
    return sums[:, np.searchsorted(places, ends)]


def _draw_curve(times: Int[np.ndarray, "r hits"], places: Int[np.ndarray, "r hits"]) -> Curve:
    """Return the curve of hits that occur `times` in a row, the last time at `places` of the ranking, which start at 1."""
    found = np.cumsum(times, axis=1)
    return found, np.maximum.accumulate((found / np.maximum(places, 1))[:, ::-1], axis=1)[:, ::-1]


def _least(positives: Int[np.ndarray, " r"], recalls: Float[np.ndarray, " q"]) -> Int[np.ndarray, "r q"]:
    """Return the smallest number of objects m for each recall, such that m / positives >= recall in doubles."""
    divisor = np.maximum(positives, 1)[:, None]
    count = np.floor(recalls * divisor).astype(np.int64)
    return np.where(count / divisor >= recalls, count, count + 1)


def _at(curve: Curve, needed: Int[np.ndarray, "r q"]) -> Float[np.ndarray, "r q"]:
    """Return the precision at which `needed` objects are found, 0 if they never are."""
    found, values = curve
    count, width = found.shape
    if not width:
        return np.zeros(needed.shape)
    # One search for all rows, whose numbers are shifted so that they do not overlap.
    top = max(int(found[:, -1].max()), int(needed.max())) + 1
    starts = np.arange(count)[:, None]
    places = np.searchsorted((found + starts * top).ravel(), (needed + starts * top).ravel()).reshape(needed.shape)
    places -= starts * width
    return np.where(places < width, np.take_along_axis(values, np.minimum(places, width - 1), 1), 0)


def _split(keys: Int[np.ndarray, " d"]) -> list[Int[np.ndarray, " _"]]:
    """Return the indices of each key."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
