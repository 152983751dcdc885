"""Areas, overlaps and coordinates of boxes (top, left, bottom, right).

The unit is the pixel, and edges are continuous: pixel (r, c) covers [c, c+1] x [r, r+1], and no side gets a one added.
The bottom is never above the top, and the right edge never left of the left edge; a side may be zero. Values and gradients
are finite for all such boxes if no side of a box or of a pair's hull exceeds 1e18 pixels. Squares of larger sides overflow
float32.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from models.ops import ArrayLike

EMPTY = 1e-12  # areas and squared lengths below it count as 0: dividing by their square would overflow float32


def _divide(a: Float[ArrayLike, "*#batch"], b: Float[ArrayLike, "*#batch"]) -> Float[Array, "*#batch"]:
    """Return a / b, or 0 with gradients of 0 where b is empty."""
    some = b > EMPTY
    return jnp.where(some, a / jnp.where(some, b, 1), 0)


def _sides(boxes: Float[ArrayLike, "*batch 4"]) -> Float[ArrayLike, "*batch 2"]:
    """Return (height, width) of each box."""
    return boxes[..., 2:] - boxes[..., :2]


def _intersection(a: Float[ArrayLike, "*#batch 4"], b: Float[ArrayLike, "*#batch 4"]) -> Float[Array, "*#batch"]:
    """Return the area that each elementwise pair shares."""
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    sides = jnp.maximum(sides, 0)
    return sides[..., 0] * sides[..., 1]


def _hull(a: Float[ArrayLike, "*#batch 4"], b: Float[ArrayLike, "*#batch 4"]) -> Float[Array, "*#batch 4"]:
    """Return the smallest box around each elementwise pair."""
    return jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1)


def area(boxes: Float[ArrayLike, "*batch 4"]) -> Float[ArrayLike, "*batch"]:
    """Return the area of each box in square pixels, as a numpy array for numpy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[ArrayLike, "*#batch 4"], b: Float[ArrayLike, "*#batch 4"]) -> Float[Array, "*#batch"]:
    """Return the intersection over union of each elementwise pair, 0 for an empty union."""
    shared = _intersection(a, b)
    return _divide(shared, area(a) + area(b) - shared)


def pairwise_iou(a: Float[ArrayLike, "*#batch n 4"], b: Float[ArrayLike, "*#batch m 4"]) -> Float[Array, "*#batch n m"]:
    """Return the intersection over union of each box of a with each box of b, 0 for an empty union."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_coverage(
    a: Float[ArrayLike, "*#batch n 4"], b: Float[ArrayLike, "*#batch m 4"]
) -> Float[Array, "*#batch n m"]:
    """Return the share of each box of a that lies in each box of b, 0 for a box of a without area."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    return _divide(_intersection(a, b), area(a))


def giou(a: Float[ArrayLike, "*#batch 4"], b: Float[ArrayLike, "*#batch 4"]) -> Float[Array, "*#batch"]:
    """Return the generalised IoU in [-1, 1] of each elementwise pair.

    It is the IoU minus the share of the pair's hull that neither box covers (Rezatofighi et al. 2019, Generalized
    Intersection over Union, algorithm 1).
    """
    shared = _intersection(a, b)
    union, hull = area(a) + area(b) - shared, area(_hull(a, b))
    return _divide(shared, union) - _divide(hull - union, hull)


def ciou(a: Float[ArrayLike, "*#batch 4"], b: Float[ArrayLike, "*#batch 4"]) -> Float[Array, "*#batch"]:
    """Return the complete IoU of each elementwise pair.

    It is the IoU minus two terms (Zheng et al. 2020, Distance-IoU Loss, equations 8 to 11). The first is the squared
    distance of the centres, divided by the squared diagonal of the hull. The second is v = (4 / pi^2) (difference of
    arctan(width / height))^2 times alpha = v / (1 - IoU + v), a weight without a gradient. The gradient of v is exact; the
    paper, whose boxes are fractions of the image, omits its factor 1 / (height^2 + width^2).
    """
    overlap = iou(a, b)
    shift = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = _divide(jnp.square(shift).sum(-1), jnp.square(_sides(_hull(a, b))).sum(-1))
    v = (4 / jnp.pi**2) * jnp.square(_angle(a) - _angle(b))
    alpha = lax.stop_gradient(_divide(v, jnp.maximum(1 - overlap, 0) + v))
    return overlap - distance - alpha * v


def _angle(boxes: Float[ArrayLike, "*batch 4"]) -> Float[Array, "*batch"]:
    """Return arctan(width / height) of each box, 0 for a point."""
    height, width = _sides(boxes)[..., 0], _sides(boxes)[..., 1]
    some = jnp.square(height) + jnp.square(width) > EMPTY
    return jnp.arctan2(jnp.where(some, width, 0), jnp.where(some, height, 1))


def clip(boxes: Float[ArrayLike, "*batch 4"], size: Sequence[float] | Num[ArrayLike, "2"]) -> Float[Array, "*batch 4"]:
    """Cut boxes to an image of `size` (height, width).

    A box outside the image becomes a line or a point on the border.
    """
    return jnp.clip(boxes, 0, jnp.tile(jnp.asarray(size, boxes.dtype), 2))


def to_centres(boxes: Float[ArrayLike, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Return (centre y, centre x, height, width) of each box."""
    return jnp.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, _sides(boxes)], -1)


def from_centres(centres: Float[ArrayLike, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Return the boxes with the given (centre y, centre x, height, width)."""
    middle, half = centres[..., :2], centres[..., 2:] / 2
    return jnp.concatenate([middle - half, middle + half], -1)
