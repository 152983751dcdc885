"""Object detection: boxes with a class and a score. What detectors share; their losses are in the files beside this one."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from experiments import pictures
from experiments.errors import RunError
from experiments.metrics.average_precision import AveragePrecision
from experiments.tasks.base import Arrays, Metric, Output, Rows, Sum
from experiments.writers import write_atomically
from input_pipeline.batch import DataError
from models.ops import nms


class Detection:
    """Prediction by suppression, scores in the images' own pixels, pictures and files.

    A detector's own class adds `loss`, `decode` (raw outputs to boxes [B,N,4] in pixels of the input and scores [B,N,C]),
    `matchable`, and the `advice` for when little is.
    """

    advice: str

    def __init__(self, config: ConfigDict, class_names: tuple[str, ...]):
        if config.data.truth == "label":
            raise DataError(f"config.data.truth='label' has no boxes; config.task.name={config.task.name} needs boxes")
        self.class_names = class_names
        self.fields = config.task
        self.mean = np.asarray(config.data.mean, np.float32)
        self.std = np.asarray(config.data.std, np.float32)
        if not config.task.metrics:
            raise RunError("config.task.metrics=() scores nothing; choose of coco, voc07, voc12, confusion")
        self.metrics()  # refuses a style that there is not

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        raise NotImplementedError

    def decode(self, model: nnx.Module, outputs: Arrays, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """Boxes [B,N,4] in pixels of an input of `size`, and the scores [B,N,C] of each class."""
        raise NotImplementedError

    def matchable(self, model: nnx.Module, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which [N] of an image's boxes [N,4], in pixels of an input of `size`, the model's anchors or cells can learn."""
        raise NotImplementedError

    def normalise(self, image: jax.Array) -> jax.Array:
        return (image.astype(jnp.float32) - self.mean) / self.std

    def learnable(self, batch: Arrays) -> jax.Array:
        """[B,M] bool: the objects that a detection is to be learned from."""
        objects = batch["valid"] & ~batch["crowd"] & batch["example_mask"][:, None]
        return objects if self.fields.use_difficult else objects & ~batch["difficult"]

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """`boxes` [B,D,4] in pixels of the input, `scores` [B,D], `classes` [B,D] int32; `valid` [B,D] where there is one."""
        outputs = model(self.normalise(batch["image"]), train=False)
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
        return pictures.box_comparison(images, examples, predictions, self.class_names)

    def output(self, folder: Path, category_ids: Sequence[int]) -> "DetectionOutput":
        return DetectionOutput(folder, self.class_names, category_ids)


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

    `image_id` is the number that an image's file is called by, as COCO's are, where all are; otherwise it counts them
    from 1. `file_name` and `category_name` say the same in words.
    """

    def __init__(self, folder: Path, class_names: tuple[str, ...], category_ids: Sequence[int]):
        self.folder, self.class_names, self.category_ids = folder, class_names, category_ids
        self._images: list[tuple[Path, Rows]] = []

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Rows) -> list[Path]:
        self._images.append((path, prediction))
        picture = self.folder / f"{name}_boxes.png"
        boxes = (prediction[key] for key in ("boxes", "classes", "scores"))
        pictures.write_png(picture, pictures.draw_boxes(image, *boxes, self.class_names))
        return [picture]

    def close(self) -> list[Path]:
        numbers = [int(path.stem) for path, _ in self._images if path.stem.isdecimal()]
        if len(set(numbers)) < len(self._images):
            numbers = range(1, len(self._images) + 1)
        entries = []
        for number, (path, prediction) in zip(numbers, self._images, strict=True):
            for box, score, index in zip(*(prediction[key] for key in ("boxes", "scores", "classes")), strict=True):
                top, left, bottom, right = box.tolist()
                entries.append(
                    {
                        "image_id": number,
                        "category_id": self.category_ids[index],
                        "bbox": [left, top, right - left, bottom - top],
                        "score": float(score),
                        "file_name": path.name,
                        "category_name": self.class_names[index],
                    }
                )
        place = self.folder / "detections.json"
        write_atomically(place, json.dumps(entries).encode())
        return [place]
