"""Masks of objects, each on a grid over its own box."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Shaped

from models.ops import ArrayLike
from models.ops.roi_align import roi_align

SHORTEST = 1e-3  # pixels; a shorter side of a box counts as this long


def crop(
    masks: Shaped[ArrayLike, "r h w"],
    boxes: Float[ArrayLike, "r 4"],
    regions: Float[ArrayLike, "r 4"],
    *,
    size: tuple[int, int],
) -> Float32[Array, "r {size[0]} {size[1]}"]:
    """Sample each mask, which lies over its box, on a grid of `size` cells over its region, as shares of the cells.

    Boxes and regions are yxyx pixels of the same image. A mask is 0 outside its box. The result is finite for boxes without
    area. In He et al. 2017, "Mask R-CNN", section 3.1, the target of a region is its intersection with the object's mask.
    """
    cells = jnp.tile(jnp.array(masks.shape[1:]), 2)
    corner, sides = jnp.tile(boxes[:, :2], 2), jnp.tile((boxes[:, 2:] - boxes[:, :2]).clip(SHORTEST), 2)
    # In cells of the mask with a ring of zeros. Without the ring, the mask would extend by half a cell.
    places = (regions - corner) / sides * cells + 1
    ringed = jnp.pad(masks.astype(jnp.float32), ((0, 0), (1, 1), (1, 1)))
    return roi_align(ringed[..., None], places[:, None], stride=1, size=size)[:, 0, ..., 0]
