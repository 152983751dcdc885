"""COCO's and VOC's average precision and the confusion matrix of detections, on plain arrays.

Overlaps are those of COCO's tools: the IoU, or for a crowd, the intersection over the detection's own area. A crowd is a
region that contains several objects without the outline of each.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask
from jaxtyping import Bool, Float, Float64, Int, Int64, Real, Shaped

COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
VOC_IOU = 0.5
CONTOUR = 0.02  # of the image's diagonal; pixels of a mask as near to its contour form its boundary
CONFIDENT = 0.25  # the lowest score of detections in the confusion matrix
# The best detections of a class in an image that COCO's recalls AR1 and AR10 count, and that all its other scores count.
RECALLED, MOST = (1, 10), 100
# Boxes (left, top, width, height), COCO's order, or run-length encoded masks as an array of objects.
Regions = Float64[np.ndarray, "n 4"] | Shaped[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Truths:
    """Annotated objects, sorted by image. `image` and `label` count from 0."""

    image: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    region: Regions
    crowd: Bool[np.ndarray, " n"]
    difficult: Bool[np.ndarray, " n"]
    area: Float64[np.ndarray, " n"]  # pixels; COCO's small, medium and large


@dataclasses.dataclass(frozen=True)
class Detections:
    """Detections, sorted by image. Of equal scores the earlier one ranks first."""

    image: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    region: Regions
    score: Float64[np.ndarray, " n"]
    area: Float64[np.ndarray, " n"]  # pixels


Table = TypeVar("Table", Truths, Detections)


@dataclasses.dataclass(frozen=True)
class ScoringTables:
    """The objects and detections to score, of `images` images and `classes` classes.

    The regions of both are boxes, or both are masks. With `boundaries` the overlap is the smaller of mask IoU and boundary IoU,
    the IoU of the pixels near the contours (Boundary AP, Cheng et al. 2021, section 5). COCO's scores use the `most` best
    detections of a class in an image.
    """

    truths: Truths
    detections: Detections
    images: int
    classes: int
    boundaries: bool = False
    most: int = MOST


def join(tables: Sequence[Table]) -> Table:
    """Join one or more tables of one image each, and number the images from 0 in their order."""
    names = [field.name for field in dataclasses.fields(tables[0])]
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
    image = np.repeat(np.arange(len(tables)), [len(table.label) for table in tables])
    return type(tables[0])(**columns | {"image": image})


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores by name, of the split in `whole` and of each class in `classes`. A score without ground truth is nan.

    `curves` holds for each class its ascending recalls and the precisions there, which never rise. The class's AP at the
    style's lowest IoU is computed from them. None stands for a class without ground truth.
    """

    whole: dict[str, float]
    classes: list[dict[str, float]]
    curves: list[tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]] | None]


def coco(tables: ScoringTables, ious: tuple[float, ...] = COCO_IOUS) -> Scores:
    """Compute COCO's twelve numbers and the per-class AP and AP50, as its official tools do (Lin et al. 2014).

    With one IoU there are ten numbers, and AP is at that IoU. Difficult objects count like all others, because COCO has none.
    """
    precision, recall = _coco_tables(tables, ious)
    best, large = precision[..., -1], dict(zip("sml", (1, 2, 3), strict=True))
    whole = {"AP": _mean(best[:, :, :, 0])}
    if len(ious) > 1:
        whole |= {name: _mean(best[[ious.index(iou)], :, :, 0]) for name, iou in (("AP50", 0.5), ("AP75", 0.75))}
    whole |= {f"AP{name}": _mean(best[:, :, :, index]) for name, index in large.items()}
    whole |= {f"AR{most}": _mean(recall[:, :, 0, index]) for index, most in enumerate(_limits(tables))}
    whole |= {f"AR{name}": _mean(recall[:, :, index, -1]) for name, index in large.items()}
    classes, curves = [], []
    for index in range(tables.classes):
        table = best[:, :, index, 0]
        classes.append({"AP": _mean(table)} | ({"AP50": _mean(table[0])} if len(ious) > 1 else {}))
        recalls = np.linspace(0, 1, table.shape[1])
        curves.append(None if np.isnan(table[0]).any() else (recalls, table[0]))
    return Scores(whole, classes, curves)


def _coco_tables(
    tables: ScoringTables, ious: tuple[float, ...]
) -> tuple[Float[np.ndarray, "ious recalls c areas limits"], Float[np.ndarray, "ious c areas limits"]]:
    """Return COCO's precision and recall, by IoU, class, range of areas and limit of detections, or nan without objects."""
    if not tables.truths.image.size:  # COCO's tools would iterate over all pairs of images and classes for nothing
        last = tables.classes, 4, len(_limits(tables))
        return np.full((len(ious), 101, *last), np.nan), np.full((len(ious), *last), np.nan)
    boxes = tables.truths.region.ndim == 2
    truths = _annotations(tables.truths, "iscrowd", tables.truths.crowd.astype(int))
    detections = _annotations(tables.detections, "score", tables.detections.score)
    images = [{"id": index} for index in range(tables.images)]
    if not boxes:
        for row in (*truths, *detections):
            height, width = row["segmentation"]["size"]
            images[row["image_id"]] |= {"height": height, "width": width}
    categories = [{"id": index} for index in range(tables.classes)]
    sets = (COCO({"images": images, "annotations": rows, "categories": categories}) for rows in (truths, detections))
    kind = "bbox" if boxes else "boundary" if tables.boundaries else "segm"
    evaluation = COCOeval_faster(*sets, iouType=kind, boundary_dilation_ratio=CONTOUR)
    evaluation.params.iouThrs = np.array(ious)
    evaluation.params.maxDets = _limits(tables)
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def _limits(tables: ScoringTables) -> list[int]:
    """Return the limits of detections of COCO's recalls, in the ascending order that its tools require."""
    return sorted({most for most in RECALLED if most < tables.most} | {tables.most})


def _annotations(table: Truths | Detections, name: str, values: Real[np.ndarray, " n"]) -> list[dict]:
    """Return COCO's entries, with `values` as one more field. Ids start at 1, because 0 means unmatched in COCO's tools."""
    kind = "bbox" if table.region.ndim == 2 else "segmentation"
    columns = (column.tolist() for column in (table.image, table.label, table.region, table.area, values))
    return [
        {"id": index, "image_id": image, "category_id": label, kind: region, "area": area, name: value}
        for index, (image, label, region, area, value) in enumerate(zip(*columns, strict=True), start=1)
    ]


def voc07(tables: ScoringTables, iou: float = VOC_IOU) -> Scores:
    """Compute mAP and the per-class AP of VOC 2007 (Everingham et al. 2010, section 4.2).

    AP is the mean over the recalls 0, 0.1, ..., 1 of the largest precision at that recall or a higher one.
    """
    return _voc(tables, iou, eleven_points)


def voc12(tables: ScoringTables, iou: float = VOC_IOU) -> Scores:
    """Compute mAP and the per-class AP of VOC from 2010 on. AP is the area under the curve, made monotone."""
    return _voc(tables, iou, area_under)


def _voc(tables: ScoringTables, iou: float, average: Callable[[Bool[np.ndarray, " d"], int], float]) -> Scores:
    truths, detections = tables.truths, tables.detections
    found, false = match(tables, iou)
    order = np.argsort(-detections.score, kind="stable")
    order = order[(found | false)[order]]
    countable = np.bincount(truths.label[~truths.crowd & ~truths.difficult], minlength=tables.classes)
    by_class = order[np.argsort(detections.label[order], kind="stable")]
    ends = np.searchsorted(detections.label[by_class], np.arange(tables.classes + 1))
    classes, curves = [], []
    for index, positives in enumerate(countable.tolist()):
        hits = found[by_class[ends[index] : ends[index + 1]]]
        classes.append({"AP": average(hits, positives) if positives else float("nan")})
        curves.append(_curve(hits, positives) if positives else None)
    return Scores({"mAP": _mean(np.array([scores["AP"] for scores in classes]))}, classes, curves)


def match(tables: ScoringTables, iou: float) -> tuple[Bool[np.ndarray, " d"], Bool[np.ndarray, " d"]]:
    """Return which detections find an object, and which are false, as VOC's devkit does. Ignored ones are neither.

    A detection is compared with the object of its class and image that it overlaps most. With an overlap of `iou` or more it
    finds the object if no detection of a higher score has found it, and is false otherwise. It is ignored if the object is
    difficult. VOC has no crowds. Here they are matched last, as in COCO: a detection that would be false is ignored if it
    overlaps a crowd by `iou` or more, and a crowd takes no detection from an object inside it.
    """
    truths, detections = tables.truths, tables.detections
    best = np.full(detections.image.size, -1)  # the object that a detection overlaps most
    overlap, covered = np.zeros((2, detections.image.size))
    for theirs, ours in pairs(
        truths.image * tables.classes + truths.label, detections.image * tables.classes + detections.label
    ):
        overlaps, crowd = measure_overlaps(tables, ours, theirs), truths.crowd[theirs]
        if crowd.any():
            covered[ours] = overlaps[:, crowd].max(1)
            overlaps[:, crowd] = -1
        if not crowd.all():
            most = overlaps.argmax(1)
            best[ours], overlap[ours] = theirs[most], overlaps[np.arange(len(ours)), most]
    reached = np.flatnonzero((best >= 0) & (overlap >= iou))
    difficult = truths.difficult[best[reached]]
    found, ignored = np.zeros((2, detections.image.size), bool)
    ignored[reached[difficult]] = True
    rest = reached[~difficult]
    rest = rest[np.argsort(-detections.score[rest], kind="stable")]
    found[rest[np.unique(best[rest], return_index=True)[1]]] = True
    return found, ~(found | ignored | (covered >= iou))


def _curve(
    hits: Bool[np.ndarray, " d"], positives: int
) -> tuple[Float[np.ndarray, " found"], Float[np.ndarray, " found"]]:
    """Return the recall after each hit, and the largest precision there or later."""
    count = np.arange(1, 1 + np.count_nonzero(hits))
    return count / positives, np.maximum.accumulate((count / (1 + np.flatnonzero(hits)))[::-1])[::-1]


def eleven_points(hits: Bool[np.ndarray, " d"], positives: int) -> float:
    """Compute AP of VOC 2007.

    `hits` says of each detection, by descending score, whether it finds one of the `positives` > 0 objects.
    """
    _, precision = _curve(hits, positives)
    # The least number of hits with a recall of tenth / 10, in integers: 3 / 10 is less than the double 3 * 0.1.
    needed = [max(1, -(-tenth * positives // 10)) for tenth in range(11)]
    return sum(float(precision[found - 1]) for found in needed if found <= precision.size) / 11


def area_under(hits: Bool[np.ndarray, " d"], positives: int) -> float:
    """Compute AP of VOC 2010 and later, from `hits` as in `eleven_points`.

    Each object found adds its share of the recall times the precision there.
    """
    return float(_curve(hits, positives)[1].sum() / positives)


def confusion(tables: ScoringTables) -> Int64[np.ndarray, "classes classes"]:
    """Count objects by true class (rows) and predicted class, with the background as the last of both, [C+1,C+1].

    Detections with a score of at least 0.25 are matched by descending score and regardless of class. Each gets the remaining
    object that it overlaps most, with an IoU of at least 0.5. Detections without an object are in the last row, and objects
    without a detection in the last column. Crowds, difficult objects, and detections that overlap only these do not count.
    """
    truths, detections = tables.truths, tables.detections
    counted = ~truths.crowd & ~truths.difficult
    confident = detections.score >= CONFIDENT
    predicted = np.where(counted, tables.classes, -1)  # of each object; -1 for objects that do not count
    false = confident.copy()
    for theirs, ours in pairs(truths.image, np.where(confident, detections.image, -1)):
        ours = ours[np.argsort(-detections.score[ours], kind="stable")]
        overlaps, plain = measure_overlaps(tables, ours, theirs), counted[theirs]
        false[ours[(overlaps[:, ~plain] >= VOC_IOU).any(1)]] = False
        overlaps[:, ~plain] = -1
        for detection, row in zip(ours, overlaps, strict=True):
            most = row.argmax()
            if row[most] >= VOC_IOU:
                predicted[theirs[most]], false[detection] = detections.label[detection], False
                overlaps[:, most] = -1
    counts = np.zeros((tables.classes + 1, tables.classes + 1), np.int64)
    np.add.at(counts, (truths.label[counted], predicted[counted]), 1)
    counts[-1, :-1] = np.bincount(detections.label[false], minlength=tables.classes)
    return counts


def pairs(
    truths: Int[np.ndarray, " n"], detections: Int[np.ndarray, " d"]
) -> Iterator[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]:
    """Yield the indices of the objects and of the detections with one key, for each key that both have."""
    orders = [np.argsort(keys, kind="stable") for keys in (truths, detections)]
    shared = np.intersect1d(truths, detections)
    bounds = (
        [np.searchsorted(keys[order], shared, side) for side in ("left", "right")]
        for keys, order in zip((truths, detections), orders, strict=True)
    )
    for (first, last), (start, end) in zip(*(zip(*bound, strict=True) for bound in bounds), strict=True):
        yield orders[0][first:last], orders[1][start:end]


def measure_overlaps(
    tables: ScoringTables, detections: Int[np.ndarray, " d"], truths: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, "d n"]:
    """Return the overlaps of detections and objects of one image, given by their indices, at least one each."""
    found, true = tables.detections.region[detections].tolist(), tables.truths.region[truths].tolist()
    crowd = tables.truths.crowd[truths]
    overlaps = np.asarray(mask.iou(found, true, crowd.astype(int).tolist()))
    if tables.boundaries:
        borders = [[mask.rleToBoundary(region, CONTOUR) for region in kind] for kind in (found, true)]
        near = np.asarray(mask.iou(borders[0], borders[1], [0] * len(crowd)))
        overlaps = np.where(crowd, overlaps, np.minimum(overlaps, near))  # a crowd has no contours of objects
    return overlaps


def _mean(values: Float[np.ndarray, "..."]) -> float:
    """Return the mean of the values that are not nan, and nan if there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
