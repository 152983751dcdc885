"""Pooling in a spatial pyramid (He et al. 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
Recognition", sections 2.2 and 4.1): the largest features of boxes, in bins of several sizes.

It differs from RoI max pooling in two places: in its levels, and in the pixels of the features that belong to a box.
"""

import jax
import jax.numpy as jnp

from models.ops.roi_pool import pool_windows, to_features

LEVELS = (1, 2, 3, 6)  # bins along each side, as in the paper's detector: 50 in all


def spatial_pyramid_pool(
    features: jax.Array, boxes: jax.Array, *, stride: float, levels: tuple[int, ...] = LEVELS
) -> jax.Array:
    """Features [B,H,W,C] in boxes [B,R,4] to [B,R,N,C]: the largest value in each of k x k bins for every k of `levels`.

    N is the sum of k * k; levels stand one after another, the bins of one row by row. Boxes are yxyx pixels of the image,
    and `map_windows` says which pixels of the features are theirs. A bin has each of those that it touches, so that bins
    may share some, and each bin has one at least. Of equal values the first one, row by row, gets the gradient; boxes get
    none. Shapes are fixed, and padding may hold any finite boxes.
    """
    windows = map_windows(boxes, stride=stride, size=features.shape[1:3])
    return pool_windows(features, windows, tuple((level, level) for level in levels))


def map_windows(boxes: jax.Array, *, stride: float, size: tuple[int, int]) -> jax.Array:
    """The first and the last pixel, (row, column) twice, of features of `size` in boxes [...,4]: [...,4] int32.

    These are the pixels whose centres lie between the edges: from floor(x / stride) + 1 to ceil(x / stride) - 1 (appendix
    A), where x is counted from the centre of the first pixel. Here this centre is half a stride from the image's edge, so
    that a box as large as the image has all pixels; in the paper's networks it is on the edge. A box that has no centre
    gets the pixel before its middle, one beyond the features the nearest pixel, as in the authors' program.
    """
    places = to_features(boxes, stride) - 0.5
    first = jnp.floor(places[..., :2]).astype(jnp.int32) + 1
    last = jnp.ceil(places[..., 2:]).astype(jnp.int32) - 1
    middle, none = (first + last) // 2, first > last
    windows = (jnp.where(none, middle, own).clip(0, jnp.array(size) - 1) for own in (first, last))
    return jnp.concatenate(list(windows), -1)
