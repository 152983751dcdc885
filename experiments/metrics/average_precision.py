"""Average precision as COCO and VOC define it, for runs and as a command for files of any program.

    python -m experiments.metrics.average_precision --ground_truth=GT.json --detections=DT.json --style=coco

GT.json is COCO's: `images`, `categories` and `annotations` with `image_id`, `category_id`, `bbox` [left, top, width,
height], or `segmentation` for --iou_type=segm and boundary. Optional fields are `area` (by default the region's own),
`iscrowd` and, for VOC's styles, `difficult` or `ignore`. DT.json is a list of `image_id`, `category_id`, `score` and `bbox` or
`segmentation`. If every entry has a `file_name`, it names the image instead of the id, which may then be another program's.
`category_name` names the category in the same way.

The command prints one JSON object, with null for a score without objects. --style=coco prints the twelve numbers and the
per-class AP and AP50, or with --iou=0.5 the ten numbers of one IoU. --style=voc07 and voc12 print mAP and the per-class AP at
--iou, by default 0.5. This file does not import jax, so that the command starts fast.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # before the imports, which take time

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Integer

from errors import UserError
from experiments.metrics import coco_files, precision, weighted_precision
from experiments.metrics.base import Metric, Picture, Prediction
from experiments.metrics.precision import Detections, ScoringTables, Truths
from experiments.pictures.plots import plot_box_confusion, plot_precision_recall
from input_pipeline.batch import Example


class Style(NamedTuple):
    """A way of scoring."""

    score: Callable[..., precision.Scores]
    resample: Callable[..., weighted_precision.Samples]  # scores samples of the images
    names: str  # of its scores; "{}" stands for AP, AP50, ...
    title: str  # in a picture


STYLES = {
    "coco": Style(precision.coco, weighted_precision.coco, "{}", "COCO"),
    "voc07": Style(precision.voc07, weighted_precision.voc07, "{}_voc07", "VOC 2007"),
    "voc12": Style(precision.voc12, weighted_precision.voc12, "{}_voc12", "VOC 2012"),
}


class AveragePrecision(Metric):
    """Scores boxes by `styles`, which are coco, voc07, voc12 and confusion, against the annotations of the source.

    Average precision needs all detections of a split together, sorted by score. The metric keeps 64 bytes for each detection,
    and COCO's tools use about two kilobytes each while they score.
    """

    name = "average_precision"
    smaller_is_better = frozenset()
    reads = ("boxes", "scores", "classes")
    known = STYLES
    curves = "precision_recall"  # the name of their picture

    def __init__(self, class_names: tuple[str, ...], styles: tuple[str, ...], most: int = precision.MOST):
        self.class_names = class_names
        self.styles = styles
        self.most = most
        self._images: dict[int, tuple[Truths, Detections]] = {}  # by image id
        self._scores: dict[str, precision.Scores] | None = None

    def measure(self, prediction: Prediction, truth: Example) -> dict:
        """Return an image's objects and detections as lists.

        The part is {"objects": [[class, top, left, bottom, right, crowd, difficult, area], ...], "detections": [[class, score,
        top, left, bottom, right], ...]}. `truth` holds boxes [N,4] float64 in pixels of the stored image, and classes, crowd,
        difficult and area [N]. `prediction` holds boxes [D,4], scores and classes [D]. The numbers equal those of the arrays
        bit for bit, also after JSON.
        """
        flags = (truth[name].astype(int).tolist() for name in ("crowd", "difficult"))
        objects = zip(truth["classes"].tolist(), truth["boxes"].tolist(), *flags, truth["area"].tolist(), strict=True)
        detections = zip(*(prediction[name].tolist() for name in ("classes", "scores", "boxes")), strict=True)
        return {
            "objects": [[index, *box, crowd, difficult, area] for index, box, crowd, difficult, area in objects],
            "detections": [[index, score, *box] for index, score, box in detections],
        }

    def add(self, part: dict, image_id: int) -> None:
        """Keep an image's part. Images may come in any order. Of equal scores the lower id ranks first."""
        self._images[image_id] = self._read(part)
        self._scores = None

    def _read(self, part: dict) -> tuple[Truths, Detections]:
        """Convert an image's part into tables."""
        objects = np.array(part["objects"], np.float64).reshape(-1, 8)
        found = np.array(part["detections"], np.float64).reshape(-1, 6)
        label, crowd, difficult = objects[:, [0, 5, 6]].T.astype(int)
        truths = Truths(np.zeros_like(label), label, _sized(objects[:, 1:5]), crowd > 0, difficult > 0, objects[:, 7])
        label, boxes = found[:, 0].astype(int), _sized(found[:, 2:])
        return truths, Detections(np.zeros_like(label), label, boxes, found[:, 1], boxes[:, 2:].prod(1))

    def compute(self) -> dict[str, float]:
        """Return the scores of all styles.

        These are COCO's twelve numbers, `AP/NAME` and `AP50/NAME`, and `mAP_voc07` and `AP_voc07/NAME`, likewise for voc12.
        """
        scores: dict[str, float] = {}
        for style, result in self._scored().items():
            names = self.known[style].names
            scores |= {names.format(name): value for name, value in result.whole.items()}
            for name in result.classes[0]:
                of_classes = zip(self.class_names, result.classes, strict=True)
                scores |= {f"{names.format(name)}/{class_name}": values[name] for class_name, values in of_classes}
        return scores

    def resample(
        self, parts: Sequence[dict], weights: Integer[np.ndarray, "r n"]
    ) -> dict[str, Float[np.ndarray, " r"]]:
        """Return COCO's AP, AP50, AP75, AR at the largest number of detections, per-class scores, and all of VOC's."""
        tables, scores = self._join([self._read(part) for part in parts]), {}
        for style in self.styles:
            if style not in self.known:
                continue
            names = self.known[style].names
            whole, classes = self.known[style].resample(tables, weights)
            scores |= {names.format(name): values for name, values in whole.items()}
            for name, values in classes.items():
                own = zip(self.class_names, values.T, strict=True)
                scores |= {f"{names.format(name)}/{class_name}": column for class_name, column in own}
        return scores

    def pictures(self) -> dict[str, Picture]:
        """Draw `confusion` if it is a style, and the curves of the first other style at IoU 0.5."""
        drawn = {}
        if "confusion" in self.styles:
            counts = precision.confusion(self._tables())
            drawn["confusion"] = plot_box_confusion(counts, self.class_names, precision.VOC_IOU, precision.CONFIDENT)
        for style, result in list(self._scored().items())[:1]:
            name = "AP50" if "AP50" in result.classes[0] else "AP"
            scores = [values[name] for values in result.classes]
            title = f"IoU {precision.VOC_IOU:g}, {self.known[style].title}"
            drawn[self.curves] = plot_precision_recall(result.curves, scores, self.class_names, title)
        return drawn

    def trace(self) -> precision.Scores:
        """Score at IoU 0.5 alone, for the curves. VOC's rules apply if no style is COCO's."""
        if any(style.startswith("coco") for style in self.styles):
            return precision.coco(self._tables(), (precision.VOC_IOU,))
        return precision.voc12(self._tables())

    def _scored(self) -> dict[str, precision.Scores]:
        """Score by style. The scores are kept until the next image, because `compute` and `pictures` both need them."""
        if self._scores is None:
            tables = self._tables()
            self._scores = {style: self.known[style].score(tables) for style in self.styles if style in self.known}
        return self._scores

    def _tables(self) -> ScoringTables:
        """Join the tables of all images, sorted by id."""
        return self._join([self._images[image] for image in sorted(self._images)])

    def _join(self, rows: Sequence[tuple[Truths, Detections]]) -> ScoringTables:
        truths, detections = zip(*(rows or [self._read({"objects": [], "detections": []})]), strict=True)
        joined = precision.join(truths), precision.join(detections)
        return ScoringTables(*joined, len(rows), len(self.class_names), most=self.most)


def _sized(boxes: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
    """Convert boxes from (top, left, bottom, right) to (left, top, width, height), COCO's order."""
    top, left, bottom, right = boxes.T
    return np.stack([left, top, right - left, bottom - top], axis=-1)


def report(tables: ScoringTables, class_names: Sequence[str], style: str, iou: float | None) -> dict:
    """Return the scores that the command prints, with None for nan. `iou` is None for the style's own."""
    if style == "coco":
        result = precision.coco(tables, precision.COCO_IOUS if iou is None else (iou,))
        classes = result.classes
    else:
        result = STYLES[style].score(tables, precision.VOC_IOU if iou is None else iou)
        classes = [scores["AP"] for scores in result.classes]
    return {name: _plain(value) for name, value in result.whole.items()} | {
        "per_class": {name: _plain(value) for name, value in zip(class_names, classes, strict=True)}
    }


def _plain(value: float | dict[str, float]) -> float | dict | None:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if math.isnan(value) else value


def main(argv: list[str]) -> int:
    """Run the command. It prints one JSON object, or one line on stderr. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.metrics.average_precision",
        description="Scores detections against COCO's ground truth.",
    )
    parser.add_argument(
        "--ground_truth", type=Path, required=True, help="COCO's JSON of images, annotations, categories"
    )
    parser.add_argument("--detections", type=Path, required=True, help="COCO's JSON list of results")
    parser.add_argument("--style", choices=tuple(STYLES), required=True)
    parser.add_argument("--iou_type", choices=("bbox", "segm", "boundary"), default="bbox")
    parser.add_argument(
        "--iou", type=float, help="the overlap that finds an object; by default COCO's ten values or VOC's 0.5"
    )
    most = "with --style=coco, how many of the best detections of a class in an image count"
    parser.add_argument("--most_detections", type=int, default=precision.MOST, help=f"{most}; {precision.MOST} in COCO")
    flags = parser.parse_args(argv)
    try:
        if flags.iou is not None and not 0 < flags.iou <= 1:
            raise UserError(f"--iou={flags.iou} is not supported; choose an overlap above 0 and at most 1")
        if flags.most_detections < 1:
            raise UserError(f"--most_detections={flags.most_detections} is not supported; choose 1 or more")
        tables, class_names = coco_files.read(flags.ground_truth, flags.detections, flags.iou_type)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    asked = {"style": flags.style, "iou_type": flags.iou_type}
    if flags.style != "coco" or flags.iou is not None:
        asked["iou"] = precision.VOC_IOU if flags.iou is None else flags.iou
    tables = dataclasses.replace(tables, most=flags.most_detections)
    print(json.dumps(asked | report(tables, class_names, flags.style, flags.iou)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
