"""Greedy non-maximum suppression at fixed shapes. Over a batch: jax.vmap."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from models.ops import boxes as ops


def suppress(
    boxes: jax.Array,
    scores: jax.Array,
    valid: jax.Array,
    *,
    iou: float,
    count: int,
    classes: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The first `count` boxes that remain when, by falling score, each kept box drops all others with IoU above `iou`.

    boxes [N,4], scores [N] finite, valid [N] bool; with `classes` [N] a box drops only those of its own class. Of equal
    scores the lower index comes first. Returns (indices [count] int32 by falling score, mask [count]); an index outside
    the mask is 0.
    """
    boxes, scores = lax.stop_gradient((boxes, scores))
    places = jnp.arange(len(scores))

    # A round for each box that is kept, and none for those that it drops. On a CPU, for 8 images of 20 classes of 400
    # clustered boxes, forms that sort and compare all pairs (row by row, in blocks, by iteration) took 3 to 9 times
    # longer; for scattered boxes, of which nearly all are kept, 1.3 to 2.6 times.
    def more(carry):
        kept, left, _ = carry
        return (kept < count) & (left > -jnp.inf).any()

    def keep(carry):
        kept, left, indices = carry
        best = left.argmax().astype(jnp.int32)
        dropped = ops.iou(boxes[best], boxes) > iou
        if classes is not None:
            dropped &= classes == classes[best]
        dropped |= places == best  # itself too when it has no area
        return kept + 1, jnp.where(dropped, -jnp.inf, left), indices.at[kept].set(best)

    start = 0, jnp.where(valid, scores, -jnp.inf), jnp.zeros(count, jnp.int32)
    kept, _, indices = lax.while_loop(more, keep, start)
    return indices, jnp.arange(count) < kept


def detect(
    boxes: jax.Array, scores: jax.Array, *, score: float, iou: float, candidates: int, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The `count` best detections of an image, after suppression within each class.

    boxes [N,4], or [N,C,4] with one for each class; scores [N,C] of the foreground classes. A class's `candidates` best
    boxes with a score of `score` or more are looked at; classes never suppress one another. Returns (boxes [count,4],
    scores [count], classes [count] int32, mask [count]) by falling score, zeros outside the mask.
    """
    places = min(candidates, len(scores))
    scores = jnp.where(scores >= score, scores, -jnp.inf).T
    scores, best = lax.top_k(scores, places)
    boxes = boxes[best] if boxes.ndim == 2 else boxes[best, jnp.arange(len(best))[:, None]]
    kept, mask = jax.vmap(partial(suppress, iou=iou, count=min(count, places)))(boxes, scores, scores > -jnp.inf)
    boxes = jnp.take_along_axis(boxes, kept[..., None], 1).reshape(-1, 4)
    scores = jnp.where(mask, jnp.take_along_axis(scores, kept, 1), -jnp.inf).reshape(-1)

    scores = jnp.pad(scores, (0, max(count - len(scores), 0)), constant_values=-jnp.inf)
    scores, best = lax.top_k(scores, count)
    mask = scores > -jnp.inf
    best = jnp.where(mask, best, 0)
    classes = (best // kept.shape[1]).astype(jnp.int32)
    return jnp.where(mask[:, None], boxes[best], 0), jnp.where(mask, scores, 0), classes, mask


def detect_levels(
    boxes: Sequence[jax.Array], scores: Sequence[jax.Array], *, score: float, iou: float, candidates: int, count: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """As `detect`, from the levels of a pyramid, each of which has boxes [N,4] and scores [N,C] of its own.

    A level's `candidates` best pairs of a box and a class with a score of `score` or more are looked at, all levels'
    together. Of equal scores the first level comes first, and in it the lower box, then the lower class.
    """
    levels = [_best_pairs(*level, score, candidates) for level in zip(boxes, scores, strict=True)]
    boxes, scores, classes = (jnp.concatenate(part) for part in zip(*levels, strict=True))
    kept, mask = suppress(boxes, scores, scores > -jnp.inf, iou=iou, count=count, classes=classes)
    found = (
        jnp.where(mask[:, None], boxes[kept], 0),
        jnp.where(mask, scores[kept], 0),
        jnp.where(mask, classes[kept], 0),
    )
    return *found, mask


def propose(
    boxes: Sequence[jax.Array],
    objectness: Sequence[jax.Array],
    *,
    shortest: float,
    iou: float,
    candidates: int,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """The `count` best boxes of an image from the levels of a pyramid, (boxes [count,4], mask [count]) by falling objectness.

    A level has boxes [N,4] and finite objectness [N]. Its `candidates` best are looked at, those with a side below
    `shortest` are dropped, and levels never suppress one another (Lin et al. 2017, Feature Pyramid Networks, section 4.1).
    Zeros outside the mask.
    """
    best = [lax.top_k(values, min(candidates, len(values))) for values in objectness]
    scores = jnp.concatenate([own for own, _ in best])
    level = jnp.concatenate([jnp.full(len(own), number) for number, (own, _) in enumerate(best)])
    boxes = jnp.concatenate([own[chosen] for own, (_, chosen) in zip(boxes, best, strict=True)])
    valid = (boxes[:, 2:] - boxes[:, :2] >= shortest).all(1)
    kept, mask = suppress(boxes, scores, valid, iou=iou, count=count, classes=level)
    return jnp.where(mask[:, None], boxes[kept], 0), mask


def _best_pairs(
    boxes: jax.Array, scores: jax.Array, score: float, candidates: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(boxes [K,4], scores [K], classes [K] int32) of the best pairs by falling score; -inf where there is none."""
    num_classes = scores.shape[1]
    scores = jnp.where(scores >= score, scores, -jnp.inf).reshape(-1)
    scores, best = lax.top_k(scores, min(candidates, len(scores)))
    return boxes[best // num_classes], scores, (best % num_classes).astype(jnp.int32)
