"""Regions cut out of images and warped to one size, with context (Girshick et al. 2014, "Rich feature hierarchies for
accurate object detection and semantic segmentation", section 2.1 and appendix A): the input of R-CNN's network.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from models.ops import ArrayLike
from models.ops.roi_align import places, roi_align


def warp(
    images: Float[Array, "b h w c"], boxes: Float[ArrayLike, "b r 4"], *, size: int, context: int = 16
) -> Float[Array, "b r {size} {size} c"]:
    """Warp each box, in yxyx pixels, to the pixels from `context` to `size - context` of a square.

    Height and width are scaled separately. `context` pixels of the square around the box, fewer than half of `size`, show
    the image around it at the same scales. Pixels are sampled bilinearly at their centres, and the image's border extends to
    the image's edge. Beyond the edge the result is 0, which is the mean of normalised images. The authors' program rounds
    the outer edges to whole pixels of the image; here nothing is rounded.

    The result has r * size * size pixels for each image, so callers with many boxes pass some at a time. Images get
    gradients, boxes get none. Shapes are fixed, and padding may contain any finite boxes.
    """
    margin = context / (size - 2 * context) * (boxes[..., 2:] - boxes[..., :2])
    outer = boxes + jnp.concatenate([-margin, margin], -1)
    rows, columns = (
        (place >= -0.5) & (place <= length - 0.5)
        for place, length in ((places(outer, axis, 1.0, size, aligned=True), images.shape[axis + 1]) for axis in (0, 1))
    )
    inside = (rows[..., :, None] & columns[..., None, :])[..., None]
    return jnp.where(inside, roi_align(images, outer, stride=1, size=(size, size), samples=1), 0)
