"""Areas, overlaps and coordinates of boxes (top, left, bottom, right).

The unit is the pixel and edges are continuous: pixel (r, c) covers [c, c+1] x [r, r+1], and no side gets a one added.
The bottom is nowhere above the top, nor the right left of the left; a side may be zero. Values and gradients are finite
for every such box with sides of up to 1e18 pixels, those of a pair's hull included: the squares of larger ones overflow
float32.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

EMPTY = 1e-12  # areas and squared lengths below it count as none: dividing by their square would overflow float32


def _divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """a / b, and 0 with gradients of 0 where b is empty."""
    some = b > EMPTY
    return jnp.where(some, a / jnp.where(some, b, 1), 0)


def _sides(boxes: jax.Array) -> jax.Array:
    """(height, width) [...,2]."""
    return boxes[..., 2:] - boxes[..., :2]


def _intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    """Area that elementwise pairs share, [...]."""
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    sides = jnp.maximum(sides, 0)
    return sides[..., 0] * sides[..., 1]


def _hull(a: jax.Array, b: jax.Array) -> jax.Array:
    """The smallest box [...,4] around both."""
    return jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1)


def area(boxes: jax.Array) -> jax.Array:
    """Square pixels [...] of boxes [...,4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union [...] of a [...,4] and b [...,4], elementwise with broadcasting; 0 for an empty union."""
    shared = _intersection(a, b)
    return _divide(shared, area(a) + area(b) - shared)


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union [...,N,M] of each of a [...,N,4] with each of b [...,M,4]."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def pairwise_coverage(a: jax.Array, b: jax.Array) -> jax.Array:
    """The part [...,N,M] of each box of a [...,N,4] that lies in each of b [...,M,4]; 0 for a box without area."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    return _divide(_intersection(a, b), area(a))


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU [...] in [-1, 1], elementwise: IoU less the part of the pair's hull that neither covers.

    Rezatofighi et al. 2019, Generalized Intersection over Union, algorithm 1.
    """
    shared = _intersection(a, b)
    union, hull = area(a) + area(b) - shared, area(_hull(a, b))
    return _divide(shared, union) - _divide(hull - union, hull)


def ciou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Complete IoU [...], elementwise: IoU less a distance of the centres and a difference of the aspect ratios.

    Zheng et al. 2020, Distance-IoU Loss, equations 8 to 11: the squared distance of the centres in units of the hull's
    diagonal, and v = (4 / pi^2) (difference of arctan(width / height))^2 times alpha = v / (1 - IoU + v), a weight
    without a gradient. The gradient of v is exact; the paper, whose boxes are fractions of the image, leaves out its
    factor 1 / (height^2 + width^2).
    """
    overlap = iou(a, b)
    shift = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = _divide(jnp.square(shift).sum(-1), jnp.square(_sides(_hull(a, b))).sum(-1))
    v = (4 / jnp.pi**2) * jnp.square(_angle(a) - _angle(b))
    alpha = lax.stop_gradient(_divide(v, jnp.maximum(1 - overlap, 0) + v))
    return overlap - distance - alpha * v


def _angle(boxes: jax.Array) -> jax.Array:
    """arctan(width / height) [...], 0 for a point."""
    height, width = _sides(boxes)[..., 0], _sides(boxes)[..., 1]
    some = jnp.square(height) + jnp.square(width) > EMPTY
    return jnp.arctan2(jnp.where(some, width, 0), jnp.where(some, height, 1))


def clip(boxes: jax.Array, size: Sequence[float] | jax.Array) -> jax.Array:
    """Boxes [...,4] cut to an image of `size` (height, width); one outside becomes a line or a point on the border."""
    return jnp.clip(boxes, 0, jnp.tile(jnp.asarray(size, boxes.dtype), 2))


def to_centres(boxes: jax.Array) -> jax.Array:
    """(centre y, centre x, height, width) [...,4]."""
    return jnp.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, _sides(boxes)], -1)


def from_centres(centres: jax.Array) -> jax.Array:
    """Boxes [...,4] of (centre y, centre x, height, width) [...,4]."""
    middle, half = centres[..., :2], centres[..., 2:] / 2
    return jnp.concatenate([middle - half, middle + half], -1)
