"""Masks of objects, each on a grid over its own box."""

import jax
import jax.numpy as jnp

from models.ops.roi_align import roi_align

SHORTEST = 1e-3  # pixels; a shorter side of a box counts as this


def crop(masks: jax.Array, boxes: jax.Array, regions: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    """What of masks [R,h,w], each over its box [R,4], lies in `regions` [R,4]: [R,*size] float32, shares of the cells.

    Boxes and regions are yxyx pixels of the same image. Beyond its box a mask is 0. Finite for boxes without area. (He et al.
    2017, "Mask R-CNN", section 3.1: the target of a region is the intersection with the mask of its object.)
    """
    cells = jnp.tile(jnp.array(masks.shape[1:]), 2)
    corner, sides = jnp.tile(boxes[:, :2], 2), jnp.tile((boxes[:, 2:] - boxes[:, :2]).clip(SHORTEST), 2)
    # Cells of the mask, which has a ring of zeros: the border would extend by half a cell otherwise.
    places = (regions - corner) / sides * cells + 1
    ringed = jnp.pad(masks.astype(jnp.float32), ((0, 0), (1, 1), (1, 1)))
    return roi_align(ringed[..., None], places[:, None], stride=1, size=size)[:, 0, ..., 0]
