"""Object detection: boxes with a class and a score. What detectors share; each detector's loss is in a file of its own."""

import abc
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from errors import UserError
from experiments.tasks.base import Arrays, Mean, Means, Task, normalise
from fields import Count, Share
from input_pipeline.batch import Size
from models.layers import keep
from models.ops import boxes as ops
from models.ops import matching, nms

# `anchors` [A,4], or [h,w,k,4] of each level, or `cells` [R,C,4]: boxes in pixels of the input, as the model says.
Geometry = dict[str, np.ndarray | tuple[np.ndarray, ...]]
Levels = dict[str, tuple[jax.Array, ...]]  # outputs of a pyramid, of each of its levels
NEAR = 1e-2  # pixels: an edge this near to a whole pixel is on it
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)  # of an image, in shares of its sides
CHUNK = 64  # boxes whose overlaps are on the host at a time
# What to do where few objects have an anchor of a pyramid.
ANCHOR_ADVICE = (
    "bring config.model.scale and config.model.ratios nearer to the objects' own, or enlarge config.data.image_size"
)
COVERED = 0.5  # an anchor with this part of it or more in a crowd is not background


class Targets(NamedTuple):
    """Targets of an image's anchors [A], or of a batch's [B,A]."""

    positive: jax.Array  # bool, the anchor has an object
    counted: jax.Array  # bool, it has one or is background; else a crowd, or an object not trained on, may be in it
    classes: jax.Array  # int32, of the object; arbitrary where there is none
    boxes: jax.Array  # [A,4], of the object; arbitrary but finite where there is none
    index: jax.Array  # int32, of the object in the batch's row; arbitrary but in it where there is none


class Detection(Task, abc.ABC):
    """What detectors share: the call of a network of one stage, the assignment of objects, and prediction by suppression.

    A detector's own class adds `loss`, `decode`, and for a check of the data `matchable`, and for when little is
    `propose_fields` or the `advice`.
    """

    needs = ("boxes",)
    trains = ()
    advice: str
    detect = staticmethod(nms.detect)  # an image's boxes and scores to detections

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
        """Keeps what detectors have in common; `margin` is for tasks with labels.

        Objects marked as difficult are trained on if `use_difficult` is set; they are scored as config.eval.metrics has it.
        Detections with a score below `score_threshold` are dropped, and of two of one class with an IoU above `nms_iou`
        the weaker one. Suppression looks at the best `nms_candidates` of each class, or of each level of a pyramid; each
        view keeps `max_detections`.
        """
        self.class_names, self.use_difficult = class_names, use_difficult
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.nms_candidates, self.max_detections = nms_candidates, max_detections

    @abc.abstractmethod
    def loss(self, outputs: Arrays, batch: Arrays) -> tuple[Means, Means]:
        """See tasks.base.Task."""

    @abc.abstractmethod
    def decode(self, outputs: Arrays, size: Size) -> tuple[jax.Array, jax.Array]:
        """Boxes [B,N,4] in pixels of an input of `size`, and the scores [B,N,C] of each class."""

    @abc.abstractmethod
    def matchable(self, geometry: Geometry, boxes: np.ndarray, size: Size) -> np.ndarray:
        """Which [N] of an image's boxes [N,4], in pixels of an input of `size`, anchors or cells can learn."""

    def propose_fields(
        self, model: nnx.Module, boxes: np.ndarray, weights: np.ndarray, size: Size
    ) -> Iterable[dict[str, Any]]:
        """Values of the model's fields that fit boxes [N,4] of many images, with `weights` [N], the simplest first.

        The boxes are in pixels of an input of `size`. Only for a detector whose `matchable` judges each box by itself; none
        where the model has no boxes of its own to fit.
        """
        return ()

    def apply(self, model: nnx.Module, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Arrays:
        """The raw outputs, and where in the image they stand: `anchors` or `cells`, boxes in pixels of the input."""
        outputs = model(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)
        return outputs | model.geometry(batch["image"].shape[1:3])

    def learns(self, objects: Mapping[str, jax.Array | np.ndarray]) -> jax.Array | np.ndarray:
        """[...] bool, on the device or on the host: whether an object with these flags is to be learned from."""
        return ~objects["crowd"] if self.use_difficult else ~objects["crowd"] & ~objects["difficult"]

    def learnable(self, batch: Arrays) -> jax.Array:
        """[B,M] bool: the objects that are trained on."""
        return batch["valid"] & self.learns(batch) & batch["example_mask"][:, None]

    def assign(self, anchors: jax.Array, batch: Arrays, *, low: float, high: float, low_quality: bool) -> Targets:
        """The targets of the anchors [A,4], or of each image's own [B,A,4], for a batch; see `matching.by_threshold`.

        An anchor that a crowd covers by half, or that overlaps an object which is not trained on by `low`, does not count.
        """

        def match(anchors: jax.Array, boxes: jax.Array, classes: jax.Array, learned, left, crowd) -> Targets:
            iou = ops.pairwise_iou(boxes, anchors)
            found = matching.by_threshold(iou, learned, low=low, high=high, low_quality=low_quality)
            on_crowd = (ops.pairwise_coverage(anchors, boxes) >= COVERED) & crowd
            on_left = (iou >= low) & left[:, None]
            background = ~found.ignored & ~on_crowd.any(1) & ~on_left.any(0)
            return Targets(
                found.positive, found.positive | background, classes[found.objects], boxes[found.objects], found.objects
            )

        learned, crowd = self.learnable(batch), batch["valid"] & batch["crowd"]
        left = batch["valid"] & ~crowd & ~learned  # difficult ones
        own = 0 if anchors.ndim == 3 else None
        match = jax.vmap(match, in_axes=(own, *[0] * 5))
        targets = match(anchors, batch["boxes"], batch["classes"], learned, left, crowd)
        return jax.tree.map(keep, targets._replace(counted=targets.counted & batch["example_mask"][:, None]))

    def mean_per_image(self, count: jax.Array, batch: Arrays) -> Mean:
        """What is counted over the batch, for each of its images."""
        return Mean(count, jnp.sum(batch["example_mask"], dtype=jnp.float32))

    def boxes_lost(self, batch: Arrays) -> Mean:
        """Objects of an image that config.data.max_boxes has no room for."""
        lost = jnp.where(batch["example_mask"], batch["boxes_lost"], 0)
        return self.mean_per_image(jnp.sum(lost, dtype=jnp.float32), batch)

    def predict(self, outputs: Arrays, batch: Arrays) -> Arrays:
        """`boxes` [B,D,4] in pixels of the input, `scores` [B,D], `classes` [B,D] int32; `valid` [B,D] where there is one.

        Boxes are clipped to the image before suppression, which compares what of them is in it.
        """
        boxes, scores = self.decode(outputs, batch["image"].shape[1:3])
        boxes = jax.tree.map(partial(clip_to_image, batch=batch), boxes)
        suppression = dict(score=self.score_threshold, iou=self.nms_iou)
        suppression |= dict(candidates=self.nms_candidates, count=self.max_detections)
        found = jax.vmap(partial(self.detect, **suppression))(boxes, scores)
        return dict(zip(("boxes", "scores", "classes", "valid"), found, strict=True))


class PyramidDetection(Detection):
    """A detector on the levels of a pyramid: its outputs, its geometry and what it decodes are tuples of a part per level.

    Suppression looks at the best `nms_candidates` pairs of a place and a class of each level.
    """

    detect = staticmethod(nms.detect_levels)

    @abc.abstractmethod
    def decode(self, outputs: Levels, size: Size) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Of each level, boxes [B,N,4] in pixels of an input of `size`, and the scores [B,N,C] of each class."""


def check_thresholds(negative_iou: float, positive_iou: float) -> None:
    """Raises UserError for a negative_iou above positive_iou."""
    if negative_iou > positive_iou:
        raise UserError(
            f"config.task.negative_iou={negative_iou} is above config.task.positive_iou={positive_iou}; lower it"
        )


def join(outputs: Levels, batch: Arrays) -> Arrays:
    """The levels of each output side by side: `anchors` [A,4], and [B,A,...] of the others.

    Those are zeros in the rows that pad the batch: what padding holds costs nothing and has no gradient.
    """
    own = dict(outputs)
    anchors = jnp.concatenate([level.reshape(-1, 4) for level in own.pop("anchors")])
    joined = {name: jnp.concatenate(levels, 1) for name, levels in own.items()}
    rows = {name: batch["example_mask"].reshape(-1, *[1] * (whole.ndim - 1)) for name, whole in joined.items()}
    return {name: jnp.where(rows[name], whole, 0.0) for name, whole in joined.items()} | {"anchors": anchors}


def clip_to_image(boxes: jax.Array, batch: Arrays) -> jax.Array:
    """Boxes [B,...,4] cut to the part of each input that shows its image; one outside becomes a line or a point on its edge."""
    area = find_image(batch).reshape(boxes.shape[0], *[1] * (boxes.ndim - 2), 4)
    return jnp.clip(boxes, jnp.tile(area[..., :2], 2), jnp.tile(area[..., 2:], 2))


def is_inside(boxes: jax.Array, batch: Arrays) -> jax.Array:
    """[B,A] bool: which of the boxes [A,4] lie in the part of each input that shows its image, edges included."""
    area = find_image(batch)[:, None]
    return ((boxes[:, :2] >= area[..., :2]) & (boxes[:, 2:] <= area[..., 2:])).all(-1)


def find_image(batch: Arrays) -> jax.Array:
    """[B,4] yxyx pixels: where each input shows its image, padding left out; a blank row is all image.

    Of an image that was turned, the upright box around it.
    """
    matrix, shift = batch["to_original"][..., :2], batch["to_original"][..., 2]
    a, b, c, d = matrix.reshape(-1, 4).T
    inverse = jnp.stack([d, -b, -c, a], -1).reshape(-1, 2, 2) / (a * d - b * c)[:, None, None]
    corners = batch["original_size"][:, None, ::-1] * CORNERS - shift[:, None]  # [B,4,2], (x, y)
    corners = jnp.sum(inverse[:, None] * corners[:, :, None], -1)[..., ::-1]  # (y, x) in pixels of the input
    # Views put images on whole pixels, which the inverse in float32 misses by a little.
    whole = jnp.round(corners)
    corners = jnp.where(jnp.abs(corners - whole) < NEAR, whole, corners)
    area = jnp.concatenate([corners.min(1), corners.max(1)], -1)
    return ops.clip(area, batch["image"].shape[1:3])


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


def match_grids(boxes: np.ndarray, levels: tuple[np.ndarray, ...], least: float) -> np.ndarray:
    """As `match_anchors`, of anchors [h,w,k,4] whose shapes are the same at every place of a level.

    Of a shape, the anchor that shares most with a box is in the row that shares most of its height, and in the column that
    shares most of its width: rows and columns are enough, and a large image is looked at in no time.
    """
    best, areas = np.zeros(len(boxes)), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    for anchors in levels:
        anchors = anchors.astype(np.float64)
        rows, columns = (_share(boxes, line, axis) for axis, line in enumerate((anchors[:, 0], anchors[0])))
        shared, shapes = rows * columns, (anchors[0, 0, :, 2:] - anchors[0, 0, :, :2]).prod(-1)
        best = np.maximum(best, (shared / (areas[:, None] + shapes - shared)).max(1))
    return best >= least


def _share(boxes: np.ndarray, line: np.ndarray, axis: int) -> np.ndarray:
    """The longest part [N,k] of each of boxes [N,4], along an axis, that an anchor of each shape has of a `line` [n,k,4]."""
    start, end = (boxes[:, None, None, edge] for edge in (axis, axis + 2))
    return (np.minimum(end, line[..., axis + 2]) - np.maximum(start, line[..., axis])).clip(0).max(1)
