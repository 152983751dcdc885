"""Object detection: boxes with a class and a score. What detectors share; their losses are in the files beside this one."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from errors import UserError
from experiments.tasks.base import Arrays, Mean, Means, Task, normalise
from models.ops import nms

Geometry = dict[str, np.ndarray]  # `anchors` [A,4] or `cells` [R,C,4], boxes in pixels of the input, as the model says
CHUNK = 64  # boxes whose overlaps are on the host at a time


class Detection(Task, abc.ABC):
    """What one-stage detectors share: the network's call, and prediction by suppression.

    A detector's own class adds `loss`, `decode`, and for a check of the data `matchable` and the `advice` for when little is.
    """

    needs = ("boxes",)
    trains = ()
    advice: str

    def __init__(self, config: ConfigDict, class_names: tuple[str, ...]):
        if config.data.truth == "label":
            raise UserError(f"config.data.truth='label' has no boxes; config.task.name={config.task.name} needs boxes")
        self.class_names = class_names
        self.fields = config.task
        self.mean = np.asarray(config.data.mean, np.float32)
        self.std = np.asarray(config.data.std, np.float32)
        _check_fields(config.task)

    @abc.abstractmethod
    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """As of tasks.base.Task."""

    @abc.abstractmethod
    def decode(self, outputs: Arrays, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """Boxes [B,N,4] in pixels of an input of `size`, and the scores [B,N,C] of each class."""

    @abc.abstractmethod
    def matchable(self, geometry: Geometry, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Which [N] of an image's boxes [N,4], in pixels of an input of `size`, anchors or cells can learn."""

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """The raw outputs, and where in the image they stand: `anchors` or `cells`, boxes in pixels of the input."""
        outputs = model(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)
        return outputs | model.geometry(batch["image"].shape[1:3])

    def learnable(self, batch: Arrays) -> jax.Array:
        """[B,M] bool: the objects that a detection is to be learned from."""
        objects = batch["valid"] & ~batch["crowd"] & batch["example_mask"][:, None]
        return objects if self.fields.use_difficult else objects & ~batch["difficult"]

    def mean_per_image(self, count: jax.Array, batch: Arrays) -> Mean:
        """What is counted over the batch, for each of its images."""
        return Mean(count, jnp.sum(batch["example_mask"], dtype=jnp.float32))

    def boxes_lost(self, batch: Arrays) -> Mean:
        """Objects of an image that config.data.max_boxes has no room for."""
        lost = jnp.where(batch["example_mask"], batch["boxes_lost"], 0)
        return self.mean_per_image(jnp.sum(lost, dtype=jnp.float32), batch)

    def predict(self, outputs: Arrays, batch: Arrays) -> Arrays:
        """`boxes` [B,D,4] in pixels of the input, `scores` [B,D], `classes` [B,D] int32; `valid` [B,D] where there is one."""
        boxes, scores = self.decode(outputs, batch["image"].shape[1:3])

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


def _check_fields(fields: ConfigDict) -> None:
    """Raises UserError unless the fields of config.task that detectors have are in their ranges."""
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
    }
    for field, (holds, wanted) in rules.items():
        if not holds:
            raise UserError(f"config.task.{field}={fields[field]} is out of its range: {wanted}")


def match_anchors(boxes: np.ndarray, anchors: np.ndarray, least: float) -> np.ndarray:
    """Which [N] of boxes [N,4] have an IoU of `least` or more with one of the anchors [A,4]. On the host."""
    anchors = anchors.astype(np.float64)
    best = [_best_iou(boxes[first : first + CHUNK], anchors) for first in range(0, len(boxes), CHUNK)]
    return np.concatenate([np.zeros(0), *best]) >= least


def _best_iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """The largest overlap [N] of each of boxes [N,4] with one of the anchors [A,4]."""
    sides = np.minimum(boxes[:, None, 2:], anchors[:, 2:]) - np.maximum(boxes[:, None, :2], anchors[:, :2])
    shared = sides.clip(0).prod(-1)
    areas, anchor_areas = ((box[:, 2:] - box[:, :2]).prod(-1) for box in (boxes, anchors))
    return (shared / (areas[:, None] + anchor_areas - shared)).max(1)
