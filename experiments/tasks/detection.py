"""Object detection: boxes with a class and a score. What detectors share; their losses are in the files beside this one."""

import abc
import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from experiments import box_pictures, pictures
from experiments.errors import RunError
from experiments.metrics.average_precision import AveragePrecision
from experiments.tasks.base import Arrays, Metric, Output, Rows, Sum
from experiments.writers import write_atomically
from input_pipeline.batch import DataError
from models.ops import nms


class Detection(abc.ABC):
    """Prediction by suppression, scores in the images' own pixels, pictures and files.

    A detector's own class adds `loss`, `decode` (raw outputs to boxes [B,N,4] in pixels of the input and scores [B,N,C]),
    `matchable`, the `advice` for when little is, and `geometry`.
    """

    advice: str
    geometry: str  # the method of a model that tells where its outputs stand

    def __init__(self, config: ConfigDict, class_names: tuple[str, ...]):
        if config.data.truth == "label":
            raise DataError(f"config.data.truth='label' has no boxes; config.task.name={config.task.name} needs boxes")
        self.class_names = class_names
        self.fields = config.task
        self.mean = np.asarray(config.data.mean, np.float32)
        self.std = np.asarray(config.data.std, np.float32)
        _check_fields(config.task)
        self.metrics()  # refuses a style that there is not

    @abc.abstractmethod
    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """As of tasks.base.Task."""

    @abc.abstractmethod
    def decode(self, model: nnx.Module, outputs: Arrays, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """Boxes [B,N,4] in pixels of an input of `size`, and the scores [B,N,C] of each class."""

    @abc.abstractmethod
    def matchable(self, model: nnx.Module, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which [N] of an image's boxes [N,4], in pixels of an input of `size`, the model's anchors or cells can learn."""

    def check(self, model: nnx.Module) -> None:
        """Raises RunError for a model that is not of this task."""
        if not hasattr(model, self.geometry):
            raise RunError(
                f"config.task.name={self.fields.name} does not go with this model, which has no {self.geometry}; "
                "take the task that is named like the detector"
            )

    def call(self, model: nnx.Module, image: jax.Array, train: bool, rngs: nnx.Rngs | None = None) -> Arrays:
        """The raw outputs for images [B,H,W,3] uint8."""
        self.check(model)
        return model((image.astype(jnp.float32) - self.mean) / self.std, train=train, rngs=rngs)

    def learnable(self, batch: Arrays) -> jax.Array:
        """[B,M] bool: the objects that a detection is to be learned from."""
        objects = batch["valid"] & ~batch["crowd"] & batch["example_mask"][:, None]
        return objects if self.fields.use_difficult else objects & ~batch["difficult"]

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """`boxes` [B,D,4] in pixels of the input, `scores` [B,D], `classes` [B,D] int32; `valid` [B,D] where there is one."""
        outputs = self.call(model, batch["image"], train=False)
        boxes, scores = self.decode(model, outputs, batch["image"].shape[1:3])

        def detect(boxes: jax.Array, scores: jax.Array):
            return nms.detect(
                boxes,
                scores,
                score=self.fields.score,
                iou=self.fields.nms_iou,
                candidates=self.fields.candidates,
                count=self.fields.detections,
            )

        return dict(zip(("boxes", "scores", "classes", "valid"), jax.vmap(detect)(boxes, scores), strict=True))

    def assembly(self, size: tuple[int, int]) -> "Detections":
        return Detections(size, self.fields.nms_iou, self.fields.detections)

    def metrics(self) -> list[Metric]:
        return [AveragePrecision(self.class_names, tuple(self.fields.metrics))]

    def drawable(self, prediction: Rows) -> Rows:
        return prediction

    def draw(self, examples: Sequence[Rows], predictions: Sequence[Rows]) -> np.ndarray:
        images = [example["image"] for example in examples]
        return box_pictures.box_comparison(images, examples, predictions, self.class_names)

    def output(self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int]) -> "DetectionOutput":
        return DetectionOutput(folder, paths, self.class_names, category_ids)


def _check_fields(fields: ConfigDict) -> None:
    """Raises RunError unless the fields of config.task that detectors have are in their ranges."""
    positive, share, factor = "a whole number above 0", "0 to 1", "0 or more"
    rules = {
        "match_iou": (0 < fields.match_iou <= 1, "above 0, up to 1"),
        "negatives": (fields.negatives >= 0, factor),
        "localisation": (fields.localisation >= 0, factor),
        "coordinates": (fields.coordinates >= 0, factor),
        "no_object": (fields.no_object >= 0, factor),
        "score": (0 <= fields.score <= 1, share),
        "nms_iou": (0 <= fields.nms_iou <= 1, share),
        "candidates": (fields.candidates >= 1, positive),
        "detections": (fields.detections >= 1, positive),
        "metrics": (set(fields.metrics) - {"confusion"}, "one of coco, voc07 and voc12 at least, beside confusion"),
    }
    for field, (holds, wanted) in rules.items():
        if not holds:
            raise RunError(f"config.task.{field}={fields[field]} is out of its range: {wanted}")


class Detections:
    """What is detected in an image's views, in the image's own pixels and inside it.

    Of several views (windows, mirrored, zoomed) the detections of one class that overlap are one, the best of them.
    """

    def __init__(self, size: tuple[int, int], iou: float, count: int):
        self.size, self.iou, self.count = size, iou, count
        self._views: list[Rows] = []

    def add(self, prediction: Rows, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        valid = prediction["valid"]
        top, left, bottom, right = prediction["boxes"][valid].astype(np.float64).T
        ones = np.ones_like(top)
        x0, y0, _ = np.linalg.inv(matrix) @ [left, top, ones]
        x1, y1, _ = np.linalg.inv(matrix) @ [right, bottom, ones]
        boxes = np.stack([np.minimum(y0, y1), np.minimum(x0, x1), np.maximum(y0, y1), np.maximum(x0, x1)], -1)
        boxes = np.clip(boxes, 0, [*self.size, *self.size])
        kept = np.all(boxes[:, 2:] > boxes[:, :2], -1)
        row = {"boxes": boxes} | {name: prediction[name][valid] for name in ("scores", "classes")}
        self._views.append({name: values[kept] for name, values in row.items()})

    def result(self) -> Rows:
        """`boxes` [D,4] float64, `scores` [D] and `classes` [D], by falling score."""
        every = {name: np.concatenate([view[name] for view in self._views]) for name in self._views[0]}
        if len(self._views) > 1:
            every = {name: values[self._best(every)] for name, values in every.items()}
        return every

    def _best(self, every: Rows) -> np.ndarray:
        corners = np.concatenate([every["boxes"][:, 1::-1], every["boxes"][:, 3:1:-1] - every["boxes"][:, 1::-1]], -1)
        kept = cv2.dnn.NMSBoxesBatched(corners, every["scores"], every["classes"], 0.0, self.iou)
        kept = np.asarray(kept, np.intp).reshape(-1)
        return kept[np.argsort(-every["scores"][kept], kind="stable")][: self.count]


class DetectionOutput(Output):
    """NAME_boxes.png for each image, and detections.json of them all: COCO's results, a list with an entry a detection.

    `image_id` is the number that an image's file is called by, as COCO's are, where all are; otherwise its place among
    `paths`, from 1. `file_name` and `category_name` say the same in words; where two files share a name, with their folders.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], class_names: tuple[str, ...], category_ids: Sequence[int]):
        self.folder, self.class_names, self.category_ids = folder, class_names, category_ids
        names, numbers = [path.name for path in paths], [path.stem for path in paths]
        if len(set(names)) < len(names):
            common = os.path.commonpath([path.absolute() for path in paths])
            names = [path.absolute().relative_to(common).as_posix() for path in paths]
        if not all(map(str.isdecimal, numbers)) or len(set(map(int, numbers))) < len(numbers):
            numbers = range(1, len(paths) + 1)
        self._images = {path: (int(number), name) for path, number, name in zip(paths, numbers, names, strict=True)}
        self._entries: list[dict] = []

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Rows) -> list[Path]:
        number, file_name = self._images[path]
        columns = (prediction[key].tolist() for key in ("boxes", "scores", "classes"))
        for (top, left, bottom, right), score, index in zip(*columns, strict=True):
            self._entries.append(
                {
                    "image_id": number,
                    "category_id": self.category_ids[index],
                    "bbox": [left, top, right - left, bottom - top],
                    "score": score,
                    "file_name": file_name,
                    "category_name": self.class_names[index],
                }
            )
        picture = self.folder / f"{name}_boxes.png"
        boxes = (prediction[key] for key in ("boxes", "classes", "scores"))
        pictures.write_png(picture, box_pictures.draw_boxes(image, *boxes, self.class_names))
        return [picture]

    def close(self) -> list[Path]:
        """Writes detections.json, by the images' numbers whatever order they came in."""
        place = self.folder / "detections.json"
        write_atomically(place, json.dumps(sorted(self._entries, key=lambda entry: entry["image_id"])).encode())
        return [place]
