"""Scores of detections on plain arrays: COCO's and VOC's average precision, and the confusion matrix.

Overlaps are those of COCO's tools: the intersection over the union, and with a crowd, a region that holds objects
without saying where each one is, the intersection over the detection's own area.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask

COCO_IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
VOC_IOU = 0.5
CONTOUR = 0.02  # of the image's diagonal: so near to its contour a pixel belongs to a mask's boundary
CONFIDENT = 0.25  # the score from which on a detection counts in the confusion matrix
# Of a class in an image, by score: the detections that COCO's recalls count, and the most that any of its scores does.
RECALLED, MOST = (1, 10), 100


@dataclasses.dataclass(frozen=True)
class Truths:
    """N annotated objects, image by image; `image` and `label` count from 0.

    `region` is [N,4] float64 boxes (left, top, width, height), COCO's order, or [N] objects: run-length encoded masks.
    """

    image: np.ndarray  # [N] int
    label: np.ndarray  # [N] int
    region: np.ndarray
    crowd: np.ndarray  # [N] bool
    difficult: np.ndarray  # [N] bool
    area: np.ndarray  # [N] float64 pixels: by which COCO calls them small, medium and large


@dataclasses.dataclass(frozen=True)
class Detections:
    """D detections, image by image: of equal scores the earlier one goes first. The fields are as in Truths."""

    image: np.ndarray
    label: np.ndarray
    region: np.ndarray
    score: np.ndarray  # [D] float64
    area: np.ndarray  # [D] float64 pixels


@dataclasses.dataclass(frozen=True)
class ScoringTables:
    """What scores are computed from: the objects and the detections of `images` images and `classes` classes.

    The regions of both are of one kind, boxes or masks. With `boundaries` the overlap of a mask and an object is the smaller
    one of two, that of the masks and that of their pixels near the contours: Boundary AP, Cheng et al. 2021, section 5.
    COCO's scores look at the `most` best detections of a class in an image.
    """

    truths: Truths
    detections: Detections
    images: int
    classes: int
    boundaries: bool = False
    most: int = MOST


def join(tables: Sequence[Truths] | Sequence[Detections]) -> Truths | Detections:
    """Join the tables of one image each, one at least. The images count from 0, in their order."""
    names = [field.name for field in dataclasses.fields(tables[0])]
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
    image = np.repeat(np.arange(len(tables)), [len(table.label) for table in tables])
    return type(tables[0])(**columns | {"image": image})


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores `whole` by name and `classes` by name for each class, nan where there is no object to find.

    `curves` holds for each class the recalls, rising, and the precision there, which does not rise: the class's AP is
    taken from them, at the lowest IoU of the style. None for a class without ground truth.
    """

    whole: dict[str, float]
    classes: list[dict[str, float]]
    curves: list[tuple[np.ndarray, np.ndarray] | None]


def coco(tables: ScoringTables, ious: tuple[float, ...] = COCO_IOUS) -> Scores:
    """Compute COCO's twelve numbers and the per-class AP and AP50; Lin et al. 2014, as its official tools count.

    Of one IoU alone they are ten, and AP is at that one. Difficult objects are like all others, for COCO has none.
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


def _coco_tables(tables: ScoringTables, ious: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return precision [IoUs, recalls, classes, areas, most detections], and recall without `recalls`; nan: no object."""
    if not tables.truths.image.size:  # COCO's tools would go through all pairs of images and classes to find nothing
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
    return tuple(np.where(table < 0, np.nan, table) for table in map(evaluation.eval.get, ("precision", "recall")))


def _limits(tables: ScoringTables) -> list[int]:
    """Return the numbers of detections, rising, that recalls count; COCO's tools want them in this order."""
    return sorted({most for most in RECALLED if most < tables.most} | {tables.most})


def _annotations(table: Truths | Detections, name: str, values: np.ndarray) -> list[dict]:
    """Return COCO's entries, with `values` as a further field. Ids count from 1: 0 means unmatched to COCO's tools."""
    kind = "bbox" if table.region.ndim == 2 else "segmentation"
    columns = (column.tolist() for column in (table.image, table.label, table.region, table.area, values))
    return [
        {"id": index, "image_id": image, "category_id": label, kind: region, "area": area, name: value}
        for index, (image, label, region, area, value) in enumerate(zip(*columns, strict=True), start=1)
    ]


def voc07(tables: ScoringTables, iou: float = VOC_IOU) -> Scores:
    """Compute mAP and the per-class AP of VOC 2007; Everingham et al. 2010, section 4.2.

    AP is the mean over the recalls 0, 0.1, ..., 1 of the largest precision at that recall or a higher one.
    """
    return _voc(tables, iou, eleven_points)


def voc12(tables: ScoringTables, iou: float = VOC_IOU) -> Scores:
    """Compute mAP as `voc07`, but AP is the whole area under the curve, made monotone: VOC from 2010 on."""
    return _voc(tables, iou, area_under)


def _voc(tables: ScoringTables, iou: float, average) -> Scores:
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


def match(tables: ScoringTables, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Return [D] bool twice: which detections find an object, and which are false. Ignored ones are neither; VOC's devkit.

    Of each class in each image: a detection goes to the object that it overlaps most. At `iou` or more it finds it, if
    no detection of a higher score has; where one has, it is false. Where that object is difficult it is ignored. VOC has
    no crowds: here they are ignored like difficult objects, but looked at last, as COCO does: they excuse what
    would be false for an overlap of `iou` or more, and take no detection from an object inside.
    """
    truths, detections = tables.truths, tables.detections
    best = np.full(detections.image.size, -1)  # the object that a detection goes to
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


def _curve(hits: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the recall after each detection that hits, and the largest precision there or later."""
    count = np.arange(1, 1 + np.count_nonzero(hits))
    return count / positives, np.maximum.accumulate((count / (1 + np.flatnonzero(hits)))[::-1])[::-1]


def eleven_points(hits: np.ndarray, positives: int) -> float:
    """Compute AP of VOC 2007. `hits` [D] bool, by falling score: did the detection find one of the `positives` > 0 objects?"""
    _, precision = _curve(hits, positives)
    # The recall of `found` hits is tenth / 10 or more: in whole numbers, for 3 / 10 is less than the double 3 * 0.1.
    needed = [max(1, -(-tenth * positives // 10)) for tenth in range(11)]
    return sum(float(precision[found - 1]) for found in needed if found <= precision.size) / 11


def area_under(hits: np.ndarray, positives: int) -> float:
    """Compute AP of VOC 2010 and later: each object that is found adds its part of the recall times the precision there."""
    return float(_curve(hits, positives)[1].sum() / positives)


def confusion(tables: ScoringTables) -> np.ndarray:
    """Count objects by true (rows) and predicted class, [C+1,C+1] int64; the last of both is the background.

    Detections of score >= 0.25 choose, by falling score and regardless of class, the remaining object that they overlap
    most, with an IoU of 0.5 at least. Those that find none stand in the last row, objects that are not found in the last
    column. Crowds and difficult objects count nowhere, nor do detections that find nothing but one of them.
    """
    truths, detections = tables.truths, tables.detections
    counted = ~truths.crowd & ~truths.difficult
    confident = detections.score >= CONFIDENT
    predicted = np.where(counted, tables.classes, -1)  # of each object; -1 is for those that count nowhere
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


def pairs(truths: np.ndarray, detections: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices of the objects and of the detections with one key, for each key that both have."""
    orders = [np.argsort(keys, kind="stable") for keys in (truths, detections)]
    shared = np.intersect1d(truths, detections)
    bounds = (
        [np.searchsorted(keys[order], shared, side) for side in ("left", "right")]
        for keys, order in zip((truths, detections), orders, strict=True)
    )
    for (first, last), (start, end) in zip(*(zip(*bound, strict=True) for bound in bounds), strict=True):
        yield orders[0][first:last], orders[1][start:end]


def measure_overlaps(tables: ScoringTables, detections: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Return the overlaps [D,N] float64 of these, at least one each, all in one image."""
    regions = tables.detections.region[detections].tolist(), tables.truths.region[truths].tolist()
    crowd = tables.truths.crowd[truths]
    overlaps = np.asarray(mask.iou(*regions, crowd.astype(int).tolist()))
    if tables.boundaries:
        borders = ([mask.rleToBoundary(region, CONTOUR) for region in kind] for kind in regions)
        near = np.asarray(mask.iou(*borders, [0] * len(crowd)))
        overlaps = np.where(crowd, overlaps, np.minimum(overlaps, near))  # a crowd has no contours of objects
    return overlaps


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
