"""Regions cut out of images and warped to one size, with context (Girshick et al. 2014, "Rich feature hierarchies for
accurate object detection and semantic segmentation", section 2.1 and appendix A): what R-CNN's network sees.
"""

import jax
import jax.numpy as jnp

from models.ops.roi_align import places, roi_align


def warp(images: jax.Array, boxes: jax.Array, *, size: int, context: int = 16) -> jax.Array:
    """Images [B,H,W,C] in boxes [B,R,4], yxyx pixels, to [B,R,size,size,C]: each box at [context, size - context] of it.

    Both sides of a box are stretched alone, whatever its shape. Around it the image goes on at the same scales, `context`
    pixels of the result wide, which must be less than half of `size`. Pixels are sampled bilinearly at their centres, and
    the image's border extends to the image's edge. Beyond the edge is 0: the mean, where images are normalised. The
    authors' program rounds the outer edges to whole pixels of the image; here nothing is rounded.

    The result has R * size * size pixels for each image, so a caller that has many boxes takes some at a time. Images get
    gradients, boxes get none. Shapes are fixed, and padding may hold any finite boxes.
    """
    margin = context / (size - 2 * context) * (boxes[..., 2:] - boxes[..., :2])
    outer = boxes + jnp.concatenate([-margin, margin], -1)
    rows, columns = (
        (place >= -0.5) & (place <= length - 0.5)
        for place, length in ((places(outer, axis, 1.0, size, aligned=True), images.shape[axis + 1]) for axis in (0, 1))
    )
    inside = (rows[..., :, None] & columns[..., None, :])[..., None]
    return jnp.where(inside, roi_align(images, outer, stride=1, size=(size, size), samples=1), 0)
