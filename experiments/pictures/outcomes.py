"""Hits, false alarms and missed objects among the detections and the objects of an image."""

import enum
from collections.abc import Mapping

import numpy as np
from faster_coco_eval.core import mask

from experiments.pictures.scores import keep_confident
from input_pipeline.annotations.masks import encode_pixels
from input_pipeline.batch import Size

IOU = 0.5  # from which on a detection finds an object of its class


class Outcome(enum.IntEnum):
    """The outcome of a detection or of an object, in the column `outcomes` of rows that are drawn."""

    HIT = 0
    FALSE_ALARM = 1
    MISSED = 2
    NOT_COUNTED = 3  # a crowd, a difficult object, or a detection of one


def judge(
    truth: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], size: Size, least_score: float
) -> dict[str, np.ndarray]:
    """Return the detections of `least_score` or more, then the objects that they miss, each with its outcome.

    `truth` has boxes [N,4], classes, crowd and difficult [N]; `found` has boxes [D,4], classes and scores [D]. Where both
    have masks, in an image of `size` (height, width), these are compared in place of the boxes.

    As in COCO's tools, each detection by falling score takes the free object of its class that it overlaps most, with an
    IoU of at least 0.5, and is a hit. Other detections are false alarms. Crowds and difficult objects are not counted, nor
    are detections of them. A detection is one of a crowd where half of it or more lies in the crowd. The rows have
    `outcomes`, and a score of nan for missed objects.
    """
    kept = keep_confident(found, least_score)
    overlaps = _measure_overlaps(truth, kept, size)
    same = kept["classes"][:, None] == truth["classes"][None]
    counted = ~(truth["crowd"] | truth["difficult"])
    free, outcomes = counted.copy(), np.full(len(kept["scores"]), Outcome.FALSE_ALARM)
    reached = same & (overlaps >= IOU)
    for index in np.argsort(-kept["scores"], kind="stable"):
        possible = np.flatnonzero(reached[index] & free)
        if len(possible):
            free[possible[overlaps[index, possible].argmax()]] = False
            outcomes[index] = Outcome.HIT
        elif (reached[index] & ~counted).any():
            outcomes[index] = Outcome.NOT_COUNTED
    missed = {name: truth[name][free] for name in kept if name != "scores"}
    missed["scores"] = np.full(np.count_nonzero(free), np.nan)
    rows = {name: np.concatenate([kept[name], missed[name]]) for name in kept}
    return rows | {"outcomes": np.concatenate([outcomes, np.full(len(missed["scores"]), Outcome.MISSED)])}


def _measure_overlaps(truth: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], size: Size) -> np.ndarray:
    """Return the IoU [D,N] of each detection with each object, or the part of the detection that lies in a crowd."""
    if not len(found["boxes"]) or not len(truth["boxes"]):
        return np.zeros((len(found["boxes"]), len(truth["boxes"])))
    masked = "masks" in found and "masks" in truth
    ours, theirs = (_list_masks(rows, size) if masked else _list_boxes(rows) for rows in (found, truth))
    return np.asarray(mask.iou(ours, theirs, truth["crowd"].astype(int).tolist()))


def _list_masks(rows: Mapping[str, np.ndarray], size: Size) -> list:
    """List the masks as run lengths in an image of `size`, as COCO's tools want them."""
    return [{"size": list(size), "counts": encode_pixels(own, size).decode()} for own in rows["masks"]]


def _list_boxes(rows: Mapping[str, np.ndarray]) -> list:
    """List the boxes as [left, top, width, height], as COCO's tools want them."""
    top, left, bottom, right = rows["boxes"].astype(np.float64).T
    return np.stack([left, top, right - left, bottom - top], -1).tolist()
