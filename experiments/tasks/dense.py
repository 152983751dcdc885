"""Object detection: boxes with a class and a score. What detectors share; their losses are in the files beside this one."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from errors import UserError
from experiments.tasks.base import Arrays, Sum
from fields import Count, Share
from models.ops import nms


class Detection(abc.ABC):
    """What detectors share: the network's call, and prediction by suppression.

    A detector's own class adds `loss`, `decode` (raw outputs to boxes [B,N,4] in pixels of the input and scores [B,N,C]),
    `matchable`, the `advice` for when little is, and `geometry`.
    """

    needs = ("boxes",)
    advice: str
    geometry: str  # the method of a model that tells where its outputs stand

    def __init__(
        self,
        *,
        class_names: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        margin: int,
        use_difficult: bool,
        score_threshold: Share,
        nms_iou: Share,
        nms_candidates: Count,
        max_detections: Count,
    ):
        """Keeps what detectors have in common.

        Objects marked as difficult are learned where `use_difficult`; they are scored as config.eval.metrics has it.
        Detections with a score below `score_threshold` are dropped, and of two of one class with an IoU above `nms_iou`
        the weaker one. Suppression looks at the best `nms_candidates` of each class; an image keeps `max_detections`.
        """
        self.class_names, self.margin, self.use_difficult = class_names, margin, use_difficult
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.nms_candidates, self.max_detections = nms_candidates, max_detections

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
                f"config.task.name does not go with this model, which has no {self.geometry}; "
                "take the task that is named like the detector"
            )

    def call(self, model: nnx.Module, image: jax.Array, train: bool, rngs: nnx.Rngs | None = None) -> Arrays:
        """The raw outputs for images [B,H,W,3] uint8."""
        self.check(model)
        return model((image.astype(jnp.float32) - self.mean) / self.std, train=train, rngs=rngs)

    def learnable(self, batch: Arrays) -> jax.Array:
        """[B,M] bool: the objects that a detection is to be learned from."""
        objects = batch["valid"] & ~batch["crowd"] & batch["example_mask"][:, None]
        return objects if self.use_difficult else objects & ~batch["difficult"]

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """`boxes` [B,D,4] in pixels of the input, `scores` [B,D], `classes` [B,D] int32; `valid` [B,D] where there is one."""
        outputs = self.call(model, batch["image"], train=False)
        boxes, scores = self.decode(model, outputs, batch["image"].shape[1:3])

        def detect(boxes: jax.Array, scores: jax.Array):
            return nms.detect(
                boxes,
                scores,
                score=self.score_threshold,
                iou=self.nms_iou,
                candidates=self.nms_candidates,
                count=self.max_detections,
            )

        return dict(zip(("boxes", "scores", "classes", "valid"), jax.vmap(detect)(boxes, scores), strict=True))
