"""Boxes as offsets from anchors, and as distances of their edges from the anchors' centres.

Offsets are those of Ren et al. 2015 (Faster R-CNN, equation 2) and Liu et al. 2016 (SSD, equation 2). (ty, tx) are the
centre's shift in units of the anchor's sides and (th, tw) the logarithms of the sides' ratios, each divided by its
variance; with variances of 1 these are the papers' equations.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from models.ops import boxes as ops

LARGEST = math.log(1000 / 16)  # a side is decoded to at most this many times the anchor's, as a logarithm
SMALLEST = 1e-6  # pixels; shorter sides are encoded as this


def encode(boxes: jax.Array, anchors: jax.Array, *, variances: Sequence[float]) -> jax.Array:
    """Offsets (ty, tx, th, tw) [...,4] that decode to boxes [...,4] from anchors [...,4]; finite also without area."""
    boxes, anchors = ops.to_centres(boxes), ops.to_centres(anchors)
    sides, units = jnp.maximum(boxes[..., 2:], SMALLEST), jnp.maximum(anchors[..., 2:], SMALLEST)
    shifts = (boxes[..., :2] - anchors[..., :2]) / units
    return jnp.concatenate([shifts, jnp.log(sides / units)], -1) / jnp.asarray(variances, shifts.dtype)


def decode(offsets: jax.Array, anchors: jax.Array, *, variances: Sequence[float]) -> jax.Array:
    """Boxes [...,4] of offsets [...,4] from anchors [...,4]; a side is at most 1000/16 times its anchor's."""
    offsets, anchors = offsets * jnp.asarray(variances, offsets.dtype), ops.to_centres(anchors)
    units = anchors[..., 2:]
    centres = anchors[..., :2] + offsets[..., :2] * units
    return ops.from_centres(jnp.concatenate([centres, units * jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST))], -1))


def encode_distances(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    """How far (top, left, bottom, right) [...,4] are from the anchors' centres, outwards and in units of their sides.

    Negative where the centre is not between the edges (Tian et al. 2019, FCOS, equation 1, in units of the level's stride).
    """
    centres = ops.to_centres(anchors)
    middle, units = centres[..., :2], centres[..., 2:]
    return jnp.concatenate([(middle - boxes[..., :2]) / units, (boxes[..., 2:] - middle) / units], -1)


def decode_distances(distances: jax.Array, anchors: jax.Array) -> jax.Array:
    """Boxes [...,4] of distances [...,4] as in `encode_distances`."""
    centres = ops.to_centres(anchors)
    middle, units = centres[..., :2], centres[..., 2:]
    return jnp.concatenate([middle - distances[..., :2] * units, middle + distances[..., 2:] * units], -1)
