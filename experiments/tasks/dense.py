"""The base classes of detectors, which predict boxes with a class and a score. Each detector's loss has its own file."""

import abc
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from errors import UserError
from experiments.tasks.base import AnyArray, ArrayLike, Arrays, Mean, Outputs, Task, image_size, normalise
from fields import Count, Share
from input_pipeline.batch import Size
from models.layers import keep
from models.ops import boxes as ops
from models.ops import matching, nms

# A model's `anchors` [A,4], or its `anchors` [h,w,k,4] for each level, as a tuple, or its `cells` [h,w,4]; all numpy arrays
# of boxes in pixels of the input.
Geometry = Mapping[str, Any]
# The geometry whose `anchors` are those of each level.
PyramidAnchors = Mapping[str, tuple[Float[np.ndarray, "_ _ k 4"], ...]]
Levels = dict[str, tuple[Any, ...]]  # outputs of a pyramid by name, an array for each level; `anchors` are numpy arrays
Boxes = Float[Array, "b n 4"] | Float[Array, "b r c 4"] | tuple[Float[Array, "b _ 4"], ...]  # the last one by level
Scores = Float[Array, "b n c"] | tuple[Float[Array, "b _ c"], ...]
NEAR = 1e-2  # pixels: an edge this near to a whole pixel is moved there
CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)  # of an image, as fractions of its sides
CHUNK = 64  # boxes whose overlaps are computed at a time on the host
# For a pyramid, where few objects have an anchor.
ANCHOR_ADVICE = (
    "bring config.model.scale and config.model.ratios nearer to the objects' own, or enlarge config.data.image_size"
)
COVERED = 0.5  # an anchor with this share of its area or more in a crowd is not background


class Targets(NamedTuple):
    """Training targets of the anchors of an image, or of a batch with the leading axis b."""

    positive: Bool[Array, "*b a"]  # the anchor has an object
    counted: Bool[Array, "*b a"]  # it has an object or is background; False near crowds and objects not trained on
    classes: Int[Array, "*b a"]  # of the object; arbitrary if there is none
    boxes: Float[Array, "*b a 4"]  # of the object; arbitrary but finite if there is none
    objects: Int[Array, "*b a"]  # the object's index among the image's; arbitrary but valid if there is none


@runtime_checkable
class Detector(Protocol):
    """A model whose outputs stand at boxes of the input."""

    def geometry(self, size: Size) -> Geometry:
        """Return the anchors or cells of an input of `size`."""
        ...

    def __call__(self, images: Float[Array, "b h w 3"], *, train: bool, rngs: nnx.Rngs | None = None) -> Any:
        """Return the raw outputs."""
        ...


DetectorT = TypeVar("DetectorT", bound=Detector, contravariant=True)


class Detection(Task[DetectorT]):
    """The base class of detectors. It runs the network, assigns objects to anchors, and suppresses overlapping detections.

    A subclass adds `loss` and `decode`. It adds `matchable` for `--mode=datacheck`, which counts the objects that can be
    learned; where few can, datacheck prints fields from `propose_fields`, or the `advice`.
    """

    needs = ("boxes",)
    trains = ()
    advice: str
    detect = staticmethod(nms.detect)  # from an image's boxes and scores to detections

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
        """Keep the fields that all detectors have. `margin` is for tasks with labels only.

        `use_difficult` trains on objects marked as difficult; config.eval.metrics decides how they are scored. Detections
        with a score below `score_threshold` are dropped. Of two detections of one class with an IoU above `nms_iou`, the one
        with the lower score is dropped. Suppression takes the best `nms_candidates` of each class, or of each level of a
        pyramid. Each view keeps at most `max_detections`.
        """
        self.class_names, self.use_difficult = class_names, use_difficult
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.nms_candidates, self.max_detections = nms_candidates, max_detections

    @abc.abstractmethod
    def decode(self, outputs: Outputs, size: Size) -> tuple[Boxes, Scores]:
        """Return boxes in pixels of an input of `size`, one for all classes or one for each, and their scores by class."""

    @abc.abstractmethod
    def matchable(self, geometry: Geometry, boxes: Float[np.ndarray, "m 4"], size: Size) -> Bool[np.ndarray, " m"]:
        """Return which of an image's boxes the anchors or cells of an input of `size` can learn."""

    def propose_fields(
        self, model: DetectorT, boxes: Float[np.ndarray, "n 4"], weights: Float[np.ndarray, " n"], size: Size
    ) -> Iterable[dict[str, Any]]:
        """Yield values of the model's fields that fit the boxes of many images, the simplest first.

        The boxes are in pixels of an input of `size`, and have `weights`. Only a detector whose `matchable` judges each box
        by itself has this, and a model with no boxes to fit yields nothing. The model's `geometry(size, **fields)` takes them.
        """
        return ()

    def apply(self, model: DetectorT, batch: Arrays, *, train: bool, rngs: nnx.Rngs | None) -> Outputs:
        """Run the network. Return its raw outputs and its geometry, `anchors` or `cells`."""
        outputs = model(normalise(batch["image"], self.mean, self.std), train=train, rngs=rngs)
        return outputs | model.geometry(image_size(batch))

    def learns(self, objects: Mapping[str, AnyArray]) -> Bool[AnyArray, "..."]:
        """Return whether to train on objects with the flags `crowd` and `difficult`, on the device or on the host."""
        return ~objects["crowd"] if self.use_difficult else ~objects["crowd"] & ~objects["difficult"]

    def learnable(self, batch: Arrays) -> Bool[Array, "b m"]:
        """Return the mask of the objects to train on."""
        return batch["valid"] & self.learns(batch) & batch["example_mask"][:, None]

    def assign(
        self,
        anchors: Float[ArrayLike, "a 4"] | Float[ArrayLike, "b a 4"],
        batch: Arrays,
        *,
        low: float,
        high: float,
        low_quality: bool,
    ) -> Targets:
        """Return the targets [B,A] of the anchors, which all images share or each has (see `matching.by_threshold`).

        An anchor does not count if a crowd covers half of it, or if its IoU with an object not trained on is `low` or more.
        """

        # Of one image: [A,4], [M,4], and [M] the others.
        def match(anchors, boxes, classes, learned, untrained, crowd) -> Targets:
            iou = ops.pairwise_iou(boxes, anchors)
            found = matching.by_threshold(iou, learned, low=low, high=high, low_quality=low_quality)
            on_crowd = (ops.pairwise_coverage(anchors, boxes) >= COVERED) & crowd
            on_untrained = (iou >= low) & untrained[:, None]
            background = ~found.ignored & ~on_crowd.any(1) & ~on_untrained.any(0)
            return Targets(
                found.positive, found.positive | background, classes[found.objects], boxes[found.objects], found.objects
            )

        learned, crowd = self.learnable(batch), batch["valid"] & batch["crowd"]
        untrained = batch["valid"] & ~crowd & ~learned  # difficult ones
        own = 0 if anchors.ndim == 3 else None
        match = jax.vmap(match, in_axes=(own, *[0] * 5))
        targets = match(anchors, batch["boxes"], batch["classes"], learned, untrained, crowd)
        return jax.tree.map(keep, targets._replace(counted=targets.counted & batch["example_mask"][:, None]))

    def mean_per_image(self, count: Float[Array, ""], batch: Arrays) -> Mean:
        """Divide a count over the batch by the number of its images."""
        return Mean(count, jnp.sum(batch["example_mask"], dtype=jnp.float32))

    def boxes_lost(self, batch: Arrays) -> Mean:
        """Return the number of objects per image that exceed config.data.max_boxes."""
        lost = jnp.where(batch["example_mask"], batch["boxes_lost"], 0)
        return self.mean_per_image(jnp.sum(lost, dtype=jnp.float32), batch)

    def predict(self, outputs: Outputs, batch: Arrays) -> Arrays:
        """Return `boxes` [B,D,4] in pixels of the input, `scores` [B,D], `classes` [B,D] int32 and the mask `valid` [B,D].

        Boxes are clipped to the image first, so suppression compares only their parts inside the image.
        """
        boxes, scores = self.decode(outputs, image_size(batch))
        boxes = jax.tree.map(partial(clip_to_image, batch=batch), boxes)
        suppression = dict(score=self.score_threshold, iou=self.nms_iou)
        suppression |= dict(candidates=self.nms_candidates, count=self.max_detections)
        found = jax.vmap(partial(self.detect, **suppression))(boxes, scores)
        return dict(zip(("boxes", "scores", "classes", "valid"), found, strict=True))


class PyramidDetection(Detection[DetectorT]):
    """A detector on a pyramid, whose outputs, geometry and decoded boxes are tuples with an array for each level.

    Suppression takes the best `nms_candidates` pairs of a place and a class from each level.
    """

    detect = staticmethod(nms.detect_levels)

    @abc.abstractmethod
    def decode(
        self, outputs: Levels, size: Size
    ) -> tuple[tuple[Float[Array, "b _ 4"], ...], tuple[Float[Array, "b _ c"], ...]]:
        """Return boxes in pixels of an input of `size`, and their scores by class, for each level."""


def check_thresholds(negative_iou: float, positive_iou: float) -> None:
    """Raise UserError for a negative_iou above positive_iou."""
    if negative_iou > positive_iou:
        raise UserError(
            f"config.task.negative_iou={negative_iou} is above config.task.positive_iou={positive_iou}; lower it"
        )


def join(outputs: Levels, batch: Arrays) -> Arrays:
    """Concatenate the levels of each output, into `anchors` [A,4] and [B,A,...] for the others.

    The others are set to 0 in the rows that pad the batch, so that padding costs nothing and has no gradient.
    """
    own = dict(outputs)
    anchors = jnp.concatenate([level.reshape(-1, 4) for level in own.pop("anchors")])
    joined = {name: jnp.concatenate(levels, 1) for name, levels in own.items()}
    rows = {name: batch["example_mask"].reshape(-1, *[1] * (whole.ndim - 1)) for name, whole in joined.items()}
    return {name: jnp.where(rows[name], whole, 0.0) for name, whole in joined.items()} | {"anchors": anchors}


def clip_to_image(boxes: Float[Array, "b *n 4"], batch: Arrays) -> Float[Array, "b *n 4"]:
    """Clip boxes to the part of each input that shows its image.

    A box outside becomes a line or a point on the image's edge.
    """
    area = find_image(batch).reshape(boxes.shape[0], *[1] * (boxes.ndim - 2), 4)
    return jnp.clip(boxes, jnp.tile(area[..., :2], 2), jnp.tile(area[..., 2:], 2))


def is_inside(boxes: Float[Array, "a 4"], batch: Arrays) -> Bool[Array, "b a"]:
    """Return which boxes lie in the part of each input that shows its image, edges included."""
    area = find_image(batch)[:, None]
    return ((boxes[:, :2] >= area[..., :2]) & (boxes[:, 2:] <= area[..., 2:])).all(-1)


def find_image(batch: Arrays) -> Float[Array, "b 4"]:
    """Return the box of each input that shows its image, without padding. A blank row is all image.

    For a rotated image it is the upright box around the image.
    """
    matrix, shift = batch["to_original"][..., :2], batch["to_original"][..., 2]
    a, b, c, d = matrix.reshape(-1, 4).T
    inverse = jnp.stack([d, -b, -c, a], -1).reshape(-1, 2, 2) / (a * d - b * c)[:, None, None]
    corners = batch["original_size"][:, None, ::-1] * CORNERS - shift[:, None]  # [B,4,2], (x, y)
    corners = jnp.sum(inverse[:, None] * corners[:, :, None], -1)[..., ::-1]  # (y, x) in pixels of the input
    # Views place images on whole pixels, which the inverse in float32 misses by a little.
    whole = jnp.round(corners)
    corners = jnp.where(jnp.abs(corners - whole) < NEAR, whole, corners)
    area = jnp.concatenate([corners.min(1), corners.max(1)], -1)
    return ops.clip(area, image_size(batch))


def match_anchors(
    boxes: Float[np.ndarray, "n 4"], anchors: Float[np.ndarray, "a 4"], least: float
) -> Bool[np.ndarray, " n"]:
    """Return which boxes have an IoU of `least` or more with one of the anchors, on the host."""
    anchors = anchors.astype(np.float64)
    best = [_best_iou(boxes[first : first + CHUNK], anchors) for first in range(0, len(boxes), CHUNK)]
    return np.concatenate([np.zeros(0), *best]) >= least


def _best_iou(boxes: Float[np.ndarray, "n 4"], anchors: Float[np.ndarray, "a 4"]) -> Float[np.ndarray, " n"]:
    """Return the largest IoU of each box with one of the anchors."""
    sides = np.minimum(boxes[:, None, 2:], anchors[:, 2:]) - np.maximum(boxes[:, None, :2], anchors[:, :2])
    shared = sides.clip(0).prod(-1)
    areas, anchor_areas = ((box[:, 2:] - box[:, :2]).prod(-1) for box in (boxes, anchors))
    return (shared / (areas[:, None] + anchor_areas - shared)).max(1)


def match_grids(
    boxes: Float[np.ndarray, "n 4"], levels: tuple[Float[np.ndarray, "_ _ k 4"], ...], least: float
) -> Bool[np.ndarray, " n"]:
    """Return which boxes `match_anchors` finds, for anchors whose k shapes are the same at every place of a level.

    The anchor of a shape that shares the largest area with a box is in the row that shares most of the box's height and in
    the column that shares most of its width. Comparing rows and columns separately is fast for large images too.
    """
    best, areas = np.zeros(len(boxes)), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    for anchors in levels:
        anchors = anchors.astype(np.float64)
        rows, columns = (_share(boxes, line, axis) for axis, line in enumerate((anchors[:, 0], anchors[0])))
        shared, shapes = rows * columns, (anchors[0, 0, :, 2:] - anchors[0, 0, :, :2]).prod(-1)
        best = np.maximum(best, (shared / (areas[:, None] + shapes - shared)).max(1))
    return best >= least


def _share(
    boxes: Float[np.ndarray, "n 4"], line: Float[np.ndarray, "places k 4"], axis: int
) -> Float[np.ndarray, "n k"]:
    """Return the longest part of each box along an axis that an anchor of each shape covers, over the places of a line."""
    start, end = (boxes[:, None, None, edge] for edge in (axis, axis + 2))
    return (np.minimum(end, line[..., axis + 2]) - np.maximum(start, line[..., axis])).clip(0).max(1)
