"""Object detection: boxes with a class and a score. What detectors share; their losses are in the files beside this one."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from errors import UserError
from experiments.tasks.base import Arrays, Sum
from models.ops import nms


class Detection(abc.ABC):
    """What detectors share: the network's call, and prediction by suppression.

    A detector's own class adds `loss`, `decode` (raw outputs to boxes [B,N,4] in pixels of the input and scores [B,N,C]),
    `matchable`, the `advice` for when little is, and `geometry`.
    """

    needs = ("boxes",)
    advice: str
    geometry: str  # the method of a model that tells where its outputs stand

    def __init__(self, config: ConfigDict, class_names: tuple[str, ...]):
        self.class_names = class_names
        self.fields = config.task
        self.mean = np.asarray(config.data.mean, np.float32)
        self.std = np.asarray(config.data.std, np.float32)
        _check_fields(config.task)

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
        """Raises UserError for a model that is not of this task."""
        if not hasattr(model, self.geometry):
            raise UserError(
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
