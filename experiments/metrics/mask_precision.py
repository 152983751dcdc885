"""Average precision of masks, and of their boundaries: COCO's, exact in the pixels of the stored image."""

import dataclasses

import numpy as np

from experiments.metrics import precision, weighted_precision
from experiments.metrics.average_precision import AveragePrecision, Style
from experiments.metrics.precision import Detections, ScoringTables, Truths
from input_pipeline.annotations.masks import encode_pixels, measure_area


def score_boundaries(tables: ScoringTables) -> precision.Scores:
    """Compute COCO's numbers with the smaller of mask IoU and boundary IoU: Boundary AP, Cheng et al. 2021, section 5."""
    return precision.coco(dataclasses.replace(tables, boundaries=True))


def resample_boundaries(
    tables: ScoringTables, weights: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute the same for samples of the images, as `weighted_precision.coco` does."""
    return weighted_precision.coco(dataclasses.replace(tables, boundaries=True), weights)


MASK_STYLES = {
    "coco_masks": Style(precision.coco, weighted_precision.coco, "mask_{}", "COCO, masks"),
    "coco_boundaries": Style(score_boundaries, resample_boundaries, "boundary_{}", "COCO, boundaries"),
}


class MaskPrecision(AveragePrecision):
    """Scores `styles`, some of coco_masks and coco_boundaries: `mask_AP`, `mask_AP/NAME`, ... and `boundary_AP`, ....

    Small, medium and large are the objects' areas as annotated, and the detections' numbers of pixels. A record has each
    mask as COCO's text of its runs, some hundred bytes; the metric keeps these texts.
    """

    name = "mask_precision"
    reads = (*AveragePrecision.reads, "masks")
    known = MASK_STYLES
    curves = "mask_precision_recall"

    def measure(self, prediction: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict:
        """Return {"size": [height, width], "objects": [[class, crowd, difficult, area, runs], ...], "detections": ...}.

        `truth` holds the stored image [H,W,3], masks [N] of `Mask` in it, classes, crowd, difficult and area [N];
        `prediction` masks [D], scores and classes [D]. A detection is [class, score, runs].
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
        def regions(rows: list[list]) -> np.ndarray:
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
