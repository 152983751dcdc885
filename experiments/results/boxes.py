"""Predictions of boxes with a class and a score."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from ml_collections import ConfigDict

from experiments.metrics.base import Example, Metric, Prediction
from experiments.metrics.registry import make_box_metrics
from experiments.pictures.boxes import BOXES, compare_boxes, draw_boxes
from experiments.pictures.legend import Entry, add_strip, count_classes
from experiments.pictures.pairs import draw_pair, draw_tile
from experiments.pictures.png import write_png
from experiments.pictures.scores import describe_shown, keep_confident
from experiments.pictures.sheet import Sheet
from experiments.results.base import Assembly, Results, Writer
from files import write_atomically

COCO_NAME = re.compile(r"(?:COCO_\w+_)?(\d{12})")  # 000000000139, or COCO_val2014_000000000139


class BoxResults(Results):
    """Scores boxes in the images' own pixels, with the metrics of config.eval.metrics."""

    shown = ("boxes", "scores", "classes")
    make_metrics = staticmethod(make_box_metrics)
    compare = staticmethod(compare_boxes)
    style = truth_style = BOXES

    def __init__(self, evaluation: ConfigDict, class_names: tuple[str, ...]):
        self.evaluation, self.class_names = evaluation, class_names
        self.metrics()  # raises UserError for a metric that does not score boxes

    def assembly(self, size: tuple[int, int], matrices: Sequence[np.ndarray] = ()) -> "BoxAssembly":
        return BoxAssembly(size, self.evaluation.merge_iou, self.evaluation.max_detections)

    def metrics(self) -> list[Metric]:
        evaluation = self.evaluation
        return self.make_metrics(evaluation.metrics, self.class_names, evaluation.scored_detections)

    def picture(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> np.ndarray:
        images = [example["image"] for example in examples]
        return self.compare(images, examples, predictions, self.class_names, self.evaluation.picture_score)

    def tiles(self, example: Example, prediction: Prediction, longer: int) -> dict[str, np.ndarray]:
        least, draw = self.evaluation.picture_score, self.style.draw
        truth, detections = draw_pair(example["image"], example, prediction, draw, self.class_names, least, longer)
        return {"truth": np.asarray(truth), "prediction": np.asarray(detections)}

    def sheet(self, examples: Iterable[Example], captions: Sequence[str]) -> np.ndarray:
        sheet, style = Sheet(captions), self.truth_style
        kept = []
        for example in examples:
            tile = draw_tile(example["image"], example, style.draw, self.class_names, sheet.longer)
            sheet.add(np.asarray(tile))
            kept.append({name: example[name] for name in ("classes", "crowd", "difficult")})
        return sheet.draw(style.list_entries(kept, self.class_names, None))

    def writer(
        self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int], image_ids: Sequence[int]
    ) -> "DetectionWriter":
        return DetectionWriter(folder, paths, self.class_names, category_ids, image_ids, self.evaluation.picture_score)


class BoxAssembly(Assembly):
    """Collects the detections in the views of an image, in the image's own pixels and clipped to it.

    Views are windows, mirror images and zooms. With several views, detections of one class that overlap by more than `iou`
    are reduced to the best one, and the best `count` of the rest are kept. The detections of a single view stay as they are.

    A view finds only a part of an object that its window's border cuts. The part is dropped if the whole object is found
    too, with a higher score, and the part is more than `iou` of it. A smaller part stays as a detection of its own.
    """

    fields = ("boxes", "scores", "classes")  # the columns of a view's detections that are kept

    def __init__(self, size: tuple[int, int], iou: float, count: int):
        self.size, self.iou, self.count = size, iou, count
        self._views: list[Prediction] = []

    def add(self, prediction: Prediction, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """Add a view's `boxes` [D,4] in pixels of the canvas, `scores`, `classes` and `valid` [D], by falling score."""
        found = {name: prediction[name][prediction["valid"]] for name in self.fields}
        top, left, bottom, right = found["boxes"].astype(np.float64).T
        ones = np.ones_like(top)
        x0, y0, _ = np.linalg.inv(matrix) @ [left, top, ones]
        x1, y1, _ = np.linalg.inv(matrix) @ [right, bottom, ones]
        boxes = np.stack([np.minimum(y0, y1), np.minimum(x0, x1), np.maximum(y0, y1), np.maximum(x0, x1)], -1)
        row = self._place(found, boxes, matrix)
        kept = np.all(row["boxes"][:, 2:] > row["boxes"][:, :2], -1)
        self._views.append({name: values[kept] for name, values in row.items()})

    def _place(self, found: Prediction, boxes: np.ndarray, matrix: np.ndarray) -> Prediction:
        """Return the detections that a view has `found`, with their `boxes` [D,4] in pixels of the image, clipped to it."""
        return found | {"boxes": np.clip(boxes, 0, [*self.size, *self.size])}

    def result(self) -> Prediction:
        """Return `boxes` [D,4] float64 yxyx, `scores` [D] and `classes` [D], by falling score."""
        every = {name: np.concatenate([view[name] for view in self._views]) for name in self._views[0]}
        if len(self._views) == 1:
            return every
        chosen = self._suppress(every)[: self.count]
        return {name: values[chosen] for name, values in every.items()}

    def _suppress(self, every: Prediction) -> np.ndarray:
        """Return the indices of the detections that stay, by falling score."""
        corners = np.concatenate([every["boxes"][:, 1::-1], every["boxes"][:, 3:1:-1] - every["boxes"][:, 1::-1]], -1)
        scores, classes = every["scores"].tolist(), every["classes"].tolist()
        kept = cv2.dnn.NMSBoxesBatched(corners.tolist(), scores, classes, 0.0, self.iou)
        kept = np.asarray(kept, np.intp).reshape(-1)
        return kept[np.argsort(-every["scores"][kept], kind="stable")]


class DetectionWriter(Writer):
    """Writes NAME_boxes.png for each image, and detections.json with COCO's results, one entry per detection.

    `image_id` is the data's own number of the image, from `image_ids`. If these are empty, it is the number in the file's
    name if all files have COCO's names, else `file_name`: a text cannot be mistaken for the number of another image.
    `file_name` and `category_name` repeat both in words. If two files share a name, `file_name` has their folders too.
    A picture shows the detections of `picture_score` or more. Below the image it names this score, and the classes that are
    shown with their numbers of detections. detections.json has all detections.
    """

    kind = "boxes"  # of the pictures, in their names

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        class_names: tuple[str, ...],
        category_ids: Sequence[int],
        image_ids: Sequence[int],
        picture_score: float,
    ):
        self.folder, self.class_names, self.category_ids = folder, class_names, category_ids
        self.picture_score = picture_score
        names = [path.name for path in paths]
        if len(set(names)) < len(names):
            common = os.path.commonpath([path.absolute() for path in paths])
            names = [path.absolute().relative_to(common).as_posix() for path in paths]
        numbers = image_ids or _read_numbers(paths) or names
        self._images = dict(zip(paths, zip(numbers, names, strict=True), strict=True))
        self._entries: list[dict] = []

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Prediction) -> list[Path]:
        number, file_name = self._images[path]
        columns = (prediction[key].tolist() for key in ("boxes", "scores", "classes"))
        regions = self._list_regions(prediction, image.shape[:2])
        for (top, left, bottom, right), score, index, region in zip(*columns, regions, strict=True):
            self._entries.append(
                {
                    "image_id": number,
                    "category_id": self.category_ids[index],
                    "bbox": [left, top, right - left, bottom - top],
                    **region,
                    "score": score,
                    "file_name": file_name,
                    "category_name": self.class_names[index],
                }
            )
        picture = self.folder / f"{name}_{self.kind}.png"
        shown, remark = (
            keep_confident(prediction, self.picture_score),
            describe_shown(prediction["scores"], self.picture_score),
        )
        write_png(picture, add_strip(self._draw(image, shown), self._list_entries(shown), remark))
        return [picture]

    def _list_regions(self, prediction: Prediction, size: tuple[int, int]) -> list[dict]:
        """List the fields of each detection's place in an image of `size`, in addition to its box."""
        return [{} for _ in prediction["boxes"]]

    def _draw(self, image: np.ndarray, shown: Prediction) -> np.ndarray:
        """Draw the detections `shown` over the image."""
        return draw_boxes(image, shown, self.class_names)

    def _list_entries(self, shown: Prediction) -> list[Entry]:
        """List the legend's entries of the detections `shown`, one for each class with its number of detections."""
        return count_classes(shown["classes"], self.class_names)

    def close(self) -> list[Path]:
        """Write detections.json, sorted by the images' numbers."""
        place = self.folder / "detections.json"
        write_atomically(place, json.dumps(sorted(self._entries, key=lambda entry: entry["image_id"])).encode())
        return [place]


def _read_numbers(paths: Sequence[Path]) -> list[int]:
    """Return the images' numbers if all files have COCO's names and no two have the same number, else []."""
    named = [COCO_NAME.fullmatch(path.stem) for path in paths]
    numbers = [int(match[1]) for match in named if match]
    return numbers if len(set(numbers)) == len(paths) else []
