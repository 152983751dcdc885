"""COCO's average precision of masks and of their boundaries, exact in the pixels of the stored image."""

import dataclasses

import numpy as np
from jaxtyping import Integer, Shaped

from experiments.metrics import precision, weighted_precision
from experiments.metrics.average_precision import AveragePrecision, Style
from experiments.metrics.base import Prediction
from experiments.metrics.precision import Detections, ScoringTables, Truths
from experiments.metrics.weighted_precision import Samples
from input_pipeline.annotations.masks import encode_pixels, measure_area
from input_pipeline.batch import Example


def score_boundaries(tables: ScoringTables) -> precision.Scores:
    """Compute Boundary AP (Cheng et al. 2021, section 5).

    These are COCO's numbers with the smaller of mask IoU and boundary IoU.
    """
    return precision.coco(dataclasses.replace(tables, boundaries=True))


def resample_boundaries(tables: ScoringTables, weights: Integer[np.ndarray, "r n"]) -> Samples:
    """Compute Boundary AP for samples of the images, as `weighted_precision.coco` does."""
    return weighted_precision.coco(dataclasses.replace(tables, boundaries=True), weights)


MASK_STYLES = {
    "coco_masks": Style(precision.coco, weighted_precision.coco, "mask_{}", "COCO, masks"),
    "coco_boundaries": Style(score_boundaries, resample_boundaries, "boundary_{}", "COCO, boundaries"),
}


class MaskPrecision(AveragePrecision):
    """Scores masks by `styles`, which are coco_masks and coco_boundaries.

    The scores are `mask_AP`, `mask_AP/NAME`, ... and `boundary_AP`, .... Small, medium and large refer to the annotated areas of
    objects and to the detections' numbers of pixels. A record holds each mask as COCO's run-length text, about a hundred bytes,
    and the metric keeps these texts.
    """

    name = "mask_precision"
    reads = (*AveragePrecision.reads, "masks")
    known = MASK_STYLES
    curves = "mask_precision_recall"

    def measure(self, prediction: Prediction, truth: Example) -> dict:
        """Return an image's objects and detections as lists.

        The part is {"size": [height, width], "objects": [[class, crowd, difficult, area, runs], ...], "detections": [[class,
        score, runs], ...]}. `truth` holds the stored image [H,W,3], `masks` [N] of class Mask, and classes, crowd, difficult and
        area [N]. `prediction` holds masks, scores and classes [D].
        """
        size = truth["image"].shape[:2]
        flags = (truth[name].astype(int).tolist() for name in ("crowd", "difficult"))
        objects = zip(truth["classes"].tolist(), *flags, truth["area"].tolist(), truth["masks"], strict=True)
        found = zip(*(prediction[name].tolist() for name in ("classes", "scores", "masks")), strict=True)
        return {
            "size": list(size),
            "objects": [[*numbers, encode_pixels(mask, size).decode()] for *numbers, mask in objects],
            "detections": [[*numbers, encode_pixels(mask, size).decode()] for *numbers, mask in found],
        }

    def _read(self, part: dict) -> tuple[Truths, Detections]:
        def regions(rows: list[list]) -> Shaped[np.ndarray, " n"]:
            return np.array([{"size": part["size"], "counts": row[-1]} for row in rows], object)

        objects, found = (
            np.array([numbers for *numbers, _ in part[kind]], np.float64).reshape(-1, columns)
            for kind, columns in (("objects", 4), ("detections", 2))
        )
        label, crowd, difficult = objects[:, :3].T.astype(int)
        truths = Truths(np.zeros_like(label), label, regions(part["objects"]), crowd > 0, difficult > 0, objects[:, 3])
        label, masks = found[:, 0].astype(int), regions(part["detections"])
        areas = np.array([measure_area(mask) for mask in masks], np.float64)
        return truths, Detections(np.zeros_like(label), label, masks, found[:, 1], areas)
