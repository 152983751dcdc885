"""Greedy non-maximum suppression at fixed shapes, for one image. Use jax.vmap for a batch."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32

from models.ops import boxes as ops


def suppress(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    valid: Bool[Array, " n"],
    *,
    iou: float,
    count: int,
    classes: Int[Array, " n"] | None = None,
) -> tuple[Int32[Array, " {count}"], Bool[Array, " {count}"]]:
    """Keep at most `count` boxes by falling score.

    Each kept box drops all others with an IoU above `iou`. Scores must be finite. With `classes` a box drops only boxes of
    its own class. Of equal scores the lower index comes first. Returns (indices, mask) by falling score; an index outside
    the mask is 0.
    """
    boxes, scores = lax.stop_gradient((boxes, scores))
    places = jnp.arange(len(scores))

    # One round for each box that is kept, and none for the boxes that it drops. On a CPU, for 8 images of 20 classes of 400
    # clustered boxes, forms that sort and compare all pairs (row by row, in blocks, by iteration) took 3 to 9 times
    # longer; for scattered boxes, most of which are kept, 1.3 to 2.6 times.
    def more(carry):
        kept, left, _ = carry
        return (kept < count) & (left > -jnp.inf).any()

    def keep(carry):
        kept, left, indices = carry
        best = left.argmax().astype(jnp.int32)
        dropped = ops.iou(boxes[best], boxes) > iou
        if classes is not None:
            dropped &= classes == classes[best]
        dropped |= places == best  # the box itself too, even without area
        return kept + 1, jnp.where(dropped, -jnp.inf, left), indices.at[kept].set(best)

    start = 0, jnp.where(valid, scores, -jnp.inf), jnp.zeros(count, jnp.int32)
    kept, _, indices = lax.while_loop(more, keep, start)
    return indices, jnp.arange(count) < kept


def detect(
    boxes: Float[Array, "n 4"] | Float[Array, "n c 4"],
    scores: Float[Array, "n c"],
    *,
    score: float,
    iou: float,
    candidates: int,
    count: int,
) -> tuple[Float[Array, "{count} 4"], Float[Array, " {count}"], Int32[Array, " {count}"], Bool[Array, " {count}"]]:
    """Return the `count` best detections of an image, after suppression within each class.

    Boxes are shared by the classes, or one for each class; scores are those of the foreground classes. Each class
    considers its `candidates` best boxes with a score of `score` or more; classes never suppress one another. Returns
    (boxes, scores, classes, mask) by falling score, with zeros outside the mask.
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
    boxes: Sequence[Float[Array, "_n 4"]],
    scores: Sequence[Float[Array, "_n c"]],
    *,
    score: float,
    iou: float,
    candidates: int,
    count: int,
) -> tuple[Float[Array, "{count} 4"], Float[Array, " {count}"], Int32[Array, " {count}"], Bool[Array, " {count}"]]:
    """Return the same as `detect`, from the boxes and the scores of each level of a pyramid.

    Each level contributes its `candidates` best pairs of a box and a class with a score of `score` or more. All pairs are
    then suppressed together, within each class. Of equal scores the first level comes first, then the lower box, then the
    lower class.
    """
    levels = [_best_pairs(*level, score, candidates) for level in zip(boxes, scores, strict=True)]
    found, values, classes = (jnp.concatenate(part) for part in zip(*levels, strict=True))
    kept, mask = suppress(found, values, values > -jnp.inf, iou=iou, count=count, classes=classes)
    best = (
        jnp.where(mask[:, None], found[kept], 0),
        jnp.where(mask, values[kept], 0),
        jnp.where(mask, classes[kept], 0),
    )
    return *best, mask


def propose(
    boxes: Sequence[Float[Array, "_n 4"]],
    objectness: Sequence[Float[Array, " _n"]],
    *,
    shortest: float,
    iou: float,
    candidates: int,
    count: int,
) -> tuple[Float[Array, "{count} 4"], Bool[Array, " {count}"]]:
    """Return the `count` best boxes of an image from the levels of a pyramid.

    Objectness must be finite. Each level considers its `candidates` best boxes and drops those with a side below `shortest`
    pixels; levels never suppress one another (Lin et al. 2017, Feature Pyramid Networks, section 4.1). Returns (boxes,
    mask) by falling objectness, with zeros outside the mask.
    """
    best = [lax.top_k(values, min(candidates, len(values))) for values in objectness]
    scores = jnp.concatenate([own for own, _ in best])
    level = jnp.concatenate([jnp.full(len(own), number) for number, (own, _) in enumerate(best)])
    found = jnp.concatenate([own[chosen] for own, (_, chosen) in zip(boxes, best, strict=True)])
    valid = (found[:, 2:] - found[:, :2] >= shortest).all(1)
    kept, mask = suppress(found, scores, valid, iou=iou, count=count, classes=level)
    return jnp.where(mask[:, None], found[kept], 0), mask


def _best_pairs(
    boxes: Float[Array, "n 4"], scores: Float[Array, "n c"], score: float, candidates: int
) -> tuple[Float[Array, "k 4"], Float[Array, " k"], Int32[Array, " k"]]:
    """Return (boxes, scores, classes) of the best pairs by falling score.

    A missing pair has the score -inf.
    """
    num_classes = scores.shape[1]
    scores = jnp.where(scores >= score, scores, -jnp.inf).reshape(-1)
    scores, best = lax.top_k(scores, min(candidates, len(scores)))
    return boxes[best // num_classes], scores, (best % num_classes).astype(jnp.int32)
