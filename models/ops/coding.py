"""Boxes as offsets from anchors, and as distances of their edges from the anchors' centres.

Offsets are defined as in Ren et al. 2015 (Faster R-CNN, equation 2) and Liu et al. 2016 (SSD, equation 2). (ty, tx) are the
centre's shift in units of the anchor's sides. (th, tw) are the logarithms of the ratios of the sides. Each is divided by its
variance; variances of 1 give the papers' equations.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from models.ops import ArrayLike
from models.ops import boxes as ops

LARGEST = math.log(1000 / 16)  # a side is decoded to at most this many times the anchor's, as a logarithm
SMALLEST = 1e-6  # pixels; shorter sides are encoded as if they had this length


def encode(
    boxes: Float[ArrayLike, "*#batch 4"], anchors: Float[ArrayLike, "*#batch 4"], *, variances: Sequence[float]
) -> Float[Array, "*#batch 4"]:
    """Return the offsets (ty, tx, th, tw) that decode to the boxes from the anchors.

    They are finite even for boxes and anchors without area.
    """
    boxes, anchors = ops.to_centres(boxes), ops.to_centres(anchors)
    sides, units = jnp.maximum(boxes[..., 2:], SMALLEST), jnp.maximum(anchors[..., 2:], SMALLEST)
    shifts = (boxes[..., :2] - anchors[..., :2]) / units
    return jnp.concatenate([shifts, jnp.log(sides / units)], -1) / jnp.asarray(variances, shifts.dtype)


def decode(
    offsets: Float[ArrayLike, "*#batch 4"], anchors: Float[ArrayLike, "*#batch 4"], *, variances: Sequence[float]
) -> Float[Array, "*#batch 4"]:
    """Return the boxes at the given offsets from the anchors.

    A side is at most 1000/16 times as long as the anchor's.
    """
    offsets, anchors = offsets * jnp.asarray(variances, offsets.dtype), ops.to_centres(anchors)
    units = anchors[..., 2:]
    centres = anchors[..., :2] + offsets[..., :2] * units
    return ops.from_centres(jnp.concatenate([centres, units * jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST))], -1))


def encode_distances(
    boxes: Float[ArrayLike, "*#batch 4"], anchors: Float[ArrayLike, "*#batch 4"]
) -> Float[Array, "*#batch 4"]:
    """Return the distances of (top, left, bottom, right) from the anchors' centres, outwards, in units of the anchors' sides.

    A distance is negative if the centre is beyond the edge (Tian et al. 2019, FCOS, equation 1, in units of the level's
    stride).
    """
    centres = ops.to_centres(anchors)
    middle, units = centres[..., :2], centres[..., 2:]
    return jnp.concatenate([(middle - boxes[..., :2]) / units, (boxes[..., 2:] - middle) / units], -1)


def decode_distances(
    distances: Float[ArrayLike, "*#batch 4"], anchors: Float[ArrayLike, "*#batch 4"]
) -> Float[Array, "*#batch 4"]:
    """Return the boxes at the given distances, as `encode_distances` defines them."""
    centres = ops.to_centres(anchors)
    middle, units = centres[..., :2], centres[..., 2:]
    return jnp.concatenate([middle - distances[..., :2] * units, middle + distances[..., 2:] * units], -1)
