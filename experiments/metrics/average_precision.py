"""Average precision of boxes as COCO and VOC define it, in a run and as a command on files of any program.

    python -m experiments.metrics.average_precision --ground_truth=GT.json --detections=DT.json --style=coco

GT.json is COCO's: `images`, `categories` and `annotations` with `image_id`, `category_id`, `bbox` [left, top, width,
height], or `segmentation` for --iou_type=segm, and where they have them `area` (else the region's own), `iscrowd` and,
for VOC's styles, `difficult` or `ignore`. DT.json is a list of `image_id`, `category_id`, `score` and `bbox` or
`segmentation`. Where every entry has a `file_name` it names the image in place of the id, which then may be another
program's, and so does `category_name` the category.

One JSON object is printed, null where there is nothing to find. --style=coco: the twelve numbers, and AP and AP50 of each
class; with --iou=0.5 the ten that one IoU has. --style=voc07 and voc12: mAP and each class's AP at --iou, 0.5 if not given.
Imports no jax: it starts in a moment.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from errors import UserError
from experiments.metrics import coco_files, precision
from experiments.metrics.precision import Detections, Split, Truths
from experiments.pictures.plots import plot_confusion, plot_precision_recall

STYLES = {"coco": precision.coco, "voc07": precision.voc07, "voc12": precision.voc12}


class AveragePrecision:
    """Scores of `styles`, some of coco, voc07, voc12 and confusion, against the annotations as their source has them.

    Unlike a count, average precision needs all detections of a split together, sorted by score: they are kept, 48 bytes
    each, and COCO's tools take some two kilobytes each while they score. Raises UserError for an unknown style.
    """

    def __init__(self, class_names: tuple[str, ...], styles: tuple[str, ...]):
        for style in styles:
            if style not in (*STYLES, "confusion"):
                known = ", ".join((*STYLES, "confusion"))
                raise UserError(f"config.task.metrics: {style!r} does not score boxes; choose of {known}")
        self.class_names = class_names
        self.styles = styles
        self._rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # objects and detections by image
        self._scores: dict[str, precision.Scores] | None = None

    def measure(self, prediction: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict:
        """-> {"objects": [[class, top, left, bottom, right, crowd, difficult, area], ...], "detections": ...}.

        `truth` holds boxes [N,4] float64 in pixels of the stored image, classes, crowd, difficult and area [N];
        `prediction` boxes [D,4], scores and classes [D]. A detection's row is [class, score, top, left, bottom, right].
        The numbers are those of the arrays, bit for bit, also when they have been through JSON.
        """
        flags = (truth[name].astype(int).tolist() for name in ("crowd", "difficult"))
        objects = zip(truth["classes"].tolist(), truth["boxes"].tolist(), *flags, truth["area"].tolist(), strict=True)
        detections = zip(*(prediction[name].tolist() for name in ("classes", "scores", "boxes")), strict=True)
        return {
            "objects": [[index, *box, crowd, difficult, area] for index, box, crowd, difficult, area in objects],
            "detections": [[index, score, *box] for index, score, box in detections],
        }

    def add(self, row: dict) -> None:
        """Rows come in any order, each with its `image_id`: of equal scores the lower id goes first."""
        objects = np.array(row["objects"], np.float64).reshape(-1, 8)
        self._rows[row["image_id"]] = objects, np.array(row["detections"], np.float64).reshape(-1, 6)
        self._scores = None

    def compute(self) -> dict[str, float]:
        """COCO's twelve numbers, `AP/NAME` and `AP50/NAME`; `mAP_voc07` and `AP_voc07/NAME`, and those of voc12."""
        scores: dict[str, float] = {}
        for style, result in self._scored().items():
            end = "" if style == "coco" else f"_{style}"
            scores |= {f"{name}{end}": value for name, value in result.whole.items()}
            for name in result.classes[0]:
                of_classes = zip(self.class_names, result.classes, strict=True)
                scores |= {f"{name}{end}/{class_name}": values[name] for class_name, values in of_classes}
        return scores

    def pictures(self) -> dict[str, np.ndarray]:
        """`confusion` where it is a style, and `precision_recall` of the first other one at IoU 0.5."""
        drawn = {}
        if "confusion" in self.styles:
            names = (*self.class_names, "background")
            drawn["confusion"] = plot_confusion(precision.confusion(self._split()), names)
        for style, result in list(self._scored().items())[:1]:
            name = "AP50" if style == "coco" else "AP"
            scores = [values[name] for values in result.classes]
            title = {"coco": "IoU 0.5, COCO", "voc07": "IoU 0.5, VOC 2007", "voc12": "IoU 0.5, VOC 2012"}[style]
            drawn["precision_recall"] = plot_precision_recall(result.curves, scores, self.class_names, title)
        return drawn

    def _scored(self) -> dict[str, precision.Scores]:
        """By style; kept until the next row, for scores and pictures both ask for them."""
        if self._scores is None:
            split = self._split()
            self._scores = {style: STYLES[style](split) for style in self.styles if style in STYLES}
        return self._scores

    def _split(self) -> Split:
        """All rows, by the images' ids."""
        tables = [self._rows[image] for image in sorted(self._rows)]
        (where, objects), (place, found) = (
            (
                np.repeat(np.arange(len(tables)), [len(table) for table in kind]),
                np.concatenate([np.zeros((0, columns)), *kind]),
            )
            for columns, kind in ((8, [objects for objects, _ in tables]), (6, [found for _, found in tables]))
        )
        label, crowd, difficult = objects[:, [0, 5, 6]].T.astype(int)
        truths = Truths(where, label, _sized(objects[:, 1:5]), crowd > 0, difficult > 0, objects[:, 7])
        boxes = _sized(found[:, 2:])
        detections = Detections(place, found[:, 0].astype(int), boxes, found[:, 1], boxes[:, 2:].prod(1))
        return Split(truths, detections, len(tables), len(self.class_names))


def _sized(boxes: np.ndarray) -> np.ndarray:
    """[N,4] (top, left, bottom, right) -> (left, top, width, height), COCO's order."""
    top, left, bottom, right = boxes.T
    return np.stack([left, top, right - left, bottom - top], axis=-1)


def report(split: Split, class_names: Sequence[str], style: str, iou: float | None) -> dict:
    """What the command prints, but for what it was asked; nan is None. `iou` None is the style's own."""
    if style == "coco":
        result = precision.coco(split, precision.COCO_IOUS if iou is None else (iou,))
        classes = result.classes
    else:
        result = STYLES[style](split, precision.VOC_IOU if iou is None else iou)
        classes = [scores["AP"] for scores in result.classes]
    return {name: _plain(value) for name, value in result.whole.items()} | {
        "per_class": {name: _plain(value) for name, value in zip(class_names, classes, strict=True)}
    }


def _plain(value: float | dict[str, float]) -> float | dict | None:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if math.isnan(value) else value


def main(argv: list[str]) -> int:
    """The command; prints one JSON object, or one line on stderr. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.metrics.average_precision",
        description="Scores detections against COCO's ground truth.",
    )
    parser.add_argument(
        "--ground_truth", type=Path, required=True, help="COCO's JSON of images, annotations, categories"
    )
    parser.add_argument("--detections", type=Path, required=True, help="COCO's JSON list of results")
    parser.add_argument("--style", choices=tuple(STYLES), required=True)
    parser.add_argument("--iou_type", choices=("bbox", "segm"), default="bbox")
    parser.add_argument(
        "--iou", type=float, help="the overlap that finds an object; COCO's ten, VOC's 0.5 if not given"
    )
    flags = parser.parse_args(argv)
    try:
        if flags.iou is not None and not 0 < flags.iou <= 1:
            raise UserError(f"--iou={flags.iou}: an overlap is more than 0 and at most 1")
        split, class_names = coco_files.read(flags.ground_truth, flags.detections, flags.iou_type)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    asked = {"style": flags.style, "iou_type": flags.iou_type}
    if flags.style != "coco" or flags.iou is not None:
        asked["iou"] = precision.VOC_IOU if flags.iou is None else flags.iou
    print(json.dumps(asked | report(split, class_names, flags.style, flags.iou)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
