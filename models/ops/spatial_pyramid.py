"""Pooling in a spatial pyramid (He et al. 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
Recognition", sections 2.2 and 4.1): the largest features of boxes, in bins of several sizes.

It differs from RoI max pooling in its levels, and in which pixels of the features belong to a box.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from models.ops import ArrayLike
from models.ops.roi_pool import pool_windows, to_features

LEVELS = (1, 2, 3, 6)  # bins along each side, as in the paper's detector: 50 bins in total


def spatial_pyramid_pool(
    features: Float[Array, "b h w c"],
    boxes: Float[ArrayLike, "b r 4"],
    *,
    stride: float,
    levels: tuple[int, ...] = LEVELS,
) -> Float[Array, "b r n c"]:
    """Return the largest value in each of k x k bins of each box, for every k of `levels`.

    n is the sum of k * k; levels come one after another, and the bins of a level row by row. Boxes are yxyx pixels of the
    image, and `map_windows` maps them to pixels of the features. A bin has each pixel that it touches, so bins may share
    pixels, and each bin has at least one. Of equal values the first one, row by row, gets the gradient; boxes get none.
    Shapes are fixed, and padding may contain any finite boxes.
    """
    windows = map_windows(boxes, stride=stride, size=features.shape[1:3])
    return pool_windows(features, windows, tuple((level, level) for level in levels))


def map_windows(boxes: Float[ArrayLike, "*batch 4"], *, stride: float, size: Sequence[int]) -> Int32[Array, "*batch 4"]:
    """Return the first and the last pixel, each (row, column), of features of `size` in each box.

    These are the pixels whose centres lie between the edges: from floor(x / stride) + 1 to ceil(x / stride) - 1 (appendix
    A), where x is counted from the centre of the first pixel. Here this centre is half a stride from the image's edge, so a
    box as large as the image has all pixels; in the paper's networks it is on the edge. As in the authors' program, a box
    without any centre gets the pixel before its middle, and a box beyond the features gets the nearest pixel.
    """
    places = to_features(boxes, stride) - 0.5
    first = jnp.floor(places[..., :2]).astype(jnp.int32) + 1
    last = jnp.ceil(places[..., 2:]).astype(jnp.int32) - 1
    middle, none = (first + last) // 2, first > last
    windows = (jnp.where(none, middle, own).clip(0, jnp.array(size) - 1) for own in (first, last))
    return jnp.concatenate(list(windows), -1)
