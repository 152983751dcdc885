"""Which ground truth each anchor learns, from the overlaps [M,A] of M ground truth objects and A anchors of one image.

Rows that are not `valid` take part in nothing, regardless of their values. Equal overlaps go to the lower index, of the object
and then of the anchor. An object that overlaps no anchor gets none. Over a batch: jax.vmap.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Matching(NamedTuple):
    index: jax.Array  # [A] int32, the object of each anchor; 0 where it has none
    positive: jax.Array  # [A] bool, the anchor has an object
    ignored: jax.Array  # [A] bool, neither positive nor negative


def _only(valid: jax.Array, iou: jax.Array) -> jax.Array:
    """iou [M,A] with -1 in the rows that are not valid; stored, for values that are compared for equality later."""
    return lax.optimization_barrier(jnp.where(valid[:, None], lax.stop_gradient(iou), -1))


def _matching(index: jax.Array, positive: jax.Array, ignored: jax.Array) -> Matching:
    return Matching(jnp.where(positive, index, 0).astype(jnp.int32), positive, ignored)


def by_argmax(iou: jax.Array, valid: jax.Array) -> Matching:
    """Each object gets the one anchor that it overlaps most; of two objects, the anchor keeps the one it overlaps more.

    The rest are negatives. iou [M,A], valid [M].
    """
    iou = _only(valid, iou)
    anchors = jnp.arange(iou.shape[1])
    claims = (anchors == iou.argmax(1)[:, None]) & (iou > 0)
    index = jnp.where(claims, iou, -1).argmax(0)
    return _matching(index, claims.any(0), jnp.zeros_like(claims[0]))


def by_threshold(iou: jax.Array, valid: jax.Array, *, low: float, high: float, low_quality: bool) -> Matching:
    """Each anchor learns the object that it overlaps most, from `high` on; below `low` it is a negative.

    Between the two it is ignored. With `low_quality` each object's best anchors, with all ties, are positive at any
    overlap (Ren et al. 2015, Faster R-CNN, section 3.1.2, condition i); such an anchor still learns the object that it
    overlaps most itself, which may be another one. RetinaNet (Lin et al. 2017, section 4) is 0.4 and 0.5 without.
    iou [M,A], valid [M].
    """
    iou = _only(valid, iou)
    best = iou.max(0)
    positive = best >= high
    if low_quality:
        positive |= ((iou == iou.max(1, keepdims=True)) & (iou > 0)).any(0)
    return _matching(iou.argmax(0), positive, (best >= low) & ~positive)


def bipartite(iou: jax.Array, valid: jax.Array, *, threshold: float) -> Matching:
    """SSD's matching (Liu et al. 2016, section 2.2): one anchor for each object, then those with enough overlap.

    First pairs are taken by falling overlap, each of an object and an anchor that are both still free, so that no anchor
    serves two objects. Then each other anchor gets the object that it overlaps most if that is `threshold` or more.
    iou [M,A], valid [M].
    """
    iou = _only(valid, iou)
    truths = jnp.arange(iou.shape[0])

    # A free pair that is the best one of its row and of its column is taken sooner or later, so all such pairs are
    # taken at once. The best free pair of all is one of them, so there are at most M rounds, and usually a few: taking
    # one pair per round took 24 times longer on a CPU (8 images, 100 objects, 8,732 anchors).
    def settle(carry):
        waiting, index, taken = carry
        overlap = jnp.where(taken, -1, iou)
        best = overlap.argmax(1)
        waiting &= overlap[truths, best] > 0
        rivals = jnp.where(waiting[:, None], overlap[:, best], -1)
        wins = waiting & (rivals.argmax(0) == truths)
        place = jnp.where(wins, best, len(taken))  # beyond the end: not written
        return waiting & ~wins, index.at[place].set(truths, mode="drop"), taken.at[place].set(True, mode="drop")

    best = iou.argmax(0)
    start = valid, best, jnp.zeros(best.shape, bool)
    _, index, taken = lax.while_loop(lambda carry: carry[0].any(), settle, start)
    positive = taken | (iou.max(0) >= threshold)
    return _matching(index, positive, jnp.zeros_like(positive))
