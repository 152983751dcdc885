"""Average precision of samples that have some images several times and others not at all, as a bootstrap draws them.

Detections are matched once an image. A sample then needs the sums of its images' weights along the ranking alone: what
stands `w` times in a row finds `w` objects. Of equal scores the earlier image goes first.
"""

from collections.abc import Callable, Iterator

import numpy as np

from experiments.metrics import precision
from experiments.metrics.base import mean_defined
from experiments.metrics.precision import COCO_IOUS, VOC_IOU, ScoringTables

RECALLS = np.linspace(0, 1, 101)
CELLS = 2**22  # numbers that are worked on at a time, 8 bytes each
Curve = tuple[
    np.ndarray, np.ndarray
]  # [R,P] whole numbers, rising: objects found; [R,P]: the largest precision there or later


def coco(tables: ScoringTables, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return AP, AP50, AP75 and AR of the most detections, [R] each, and AP and AP50 of each class, [R,C] each.

    `weights` [R,N] are how often a sample has an image. They are `precision.coco`'s where all are 1.
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

    def mean(values: np.ndarray) -> np.ndarray:  # over IoUs and classes, in which the same classes are nan
        return mean_defined(np.moveaxis(values, 0, -1).reshape(values.shape[1], -1))

    half, three_quarters = (scores[[COCO_IOUS.index(iou)]] for iou in (0.5, 0.75))
    whole = {"AP": mean(scores), "AP50": mean(half), "AP75": mean(three_quarters), f"AR{tables.most}": mean(recalls)}
    return whole, {"AP": scores.mean(0), "AP50": half[0]}


def voc07(tables: ScoringTables, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return mAP [R] and the AP [R,C] of each class, as `precision.voc07` computes them."""

    def average(curve: Curve, positives: np.ndarray) -> np.ndarray:
        needed = np.maximum(1, -(-np.arange(11) * positives[:, None] // 10))
        return _at(curve, needed).sum(1) / 11

    return _voc(tables, weights, average)


def voc12(tables: ScoringTables, weights: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return mAP [R] and the AP [R,C] of each class, as `precision.voc12` computes them."""

    def average(curve: Curve, positives: np.ndarray) -> np.ndarray:
        gained = np.diff(curve[0], axis=1, prepend=0)
        return (gained * curve[1]).sum(1) / np.maximum(positives, 1)

    return _voc(tables, weights, average)


def _voc(
    tables: ScoringTables, weights: np.ndarray, average: Callable[[Curve, np.ndarray], np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
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


def match(tables: ScoringTables, ious: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return [I,D] bool twice, for each IoU: which detections find an object, and which are ignored; COCO's tools.

    Of each class in each image, the `most` best detections choose, by falling score, the object that they overlap most of
    those that are left; where there is none, a crowd. What finds a crowd is ignored, and so is what stands behind the best.
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


def _last_largest(values: np.ndarray) -> np.ndarray:
    """Return the place of the largest value of each row, the last one of several; -1 where none is 0 or more."""
    best = values.shape[1] - 1 - values[:, ::-1].argmax(1)
    return np.where(values.max(1) >= 0, best, -1)


def _count_objects(tables: ScoringTables, counted: np.ndarray) -> np.ndarray:
    """Return the numbers [N,C] of objects by image and class."""
    counts = np.zeros((tables.images, tables.classes), np.int64)
    np.add.at(counts, (tables.truths.image[counted], tables.truths.label[counted]), 1)
    return counts


def _ranked(tables: ScoringTables, weights: np.ndarray) -> Iterator[tuple[slice, int, np.ndarray, np.ndarray]]:
    """Yield, class by class and for as many samples as fit into memory: their rows, the class, its detections, the weights."""
    order = np.argsort(-tables.detections.score, kind="stable")
    label = tables.detections.label[order]
    for index in range(tables.classes):
        ranked = order[label == index]
        step = max(1, CELLS // max(1, len(ranked)))
        for first in range(0, len(weights), step):
            rows = slice(first, first + step)
            yield rows, index, ranked, weights[rows].astype(np.int64)


def _sum_before(times: np.ndarray, places: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the sums [R,E] of `times` [R,P], which stand at `places` [P], before each of `ends` [E]."""
    sums = np.concatenate([np.zeros((len(times), 1), times.dtype), np.cumsum(times, axis=1)], axis=1)
    return sums[:, np.searchsorted(places, ends)]


def _draw_curve(times: np.ndarray, places: np.ndarray) -> Curve:
    """Return the curve of hits that stand `times` [R,P] in a row, the last one at `places` [R,P] of the ranking, from 1."""
    found = np.cumsum(times, axis=1)
    return found, np.maximum.accumulate((found / np.maximum(places, 1))[:, ::-1], axis=1)[:, ::-1]


def _least(positives: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the fewest objects [R,Q] that are a recall: the least m of which m / positives >= recall, in doubles."""
    positives = np.maximum(positives, 1)[:, None]
    count = np.floor(recalls * positives).astype(np.int64)
    return np.where(count / positives >= recalls, count, count + 1)


def _at(curve: Curve, needed: np.ndarray) -> np.ndarray:
    """Return the precision [R,Q] where `needed` [R,Q] objects are found, 0 where they never are."""
    found, values = curve
    count, width = found.shape
    if not width:
        return np.zeros(needed.shape)
    # One search for all rows: each has numbers of its own.
    top = max(int(found[:, -1].max()), int(needed.max())) + 1
    starts = np.arange(count)[:, None]
    places = np.searchsorted((found + starts * top).ravel(), (needed + starts * top).ravel()).reshape(needed.shape)
    places -= starts * width
    return np.where(places < width, np.take_along_axis(values, np.minimum(places, width - 1), 1), 0)


def _split(keys: np.ndarray) -> list[np.ndarray]:
    """Return the indices of each key."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
