"""RoIAlign (He et al. 2017, "Mask R-CNN", section 3), which samples features of boxes without rounding.

Shapes are fixed, so one compiled program serves all images; padding may contain any finite boxes. The functions are linear
in the features, and boxes get no gradient.

There are two forms, which are equal except for rounding. On a TPU, where large gathers are slow, each box's rows and columns
are weighted sums of all rows and columns. Elsewhere the pixels around each place are gathered.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from models.ops import ArrayLike

CHUNK = 64  # boxes whose rows one matrix product computes: 150 MB for images of 800x1344


def roi_align(
    features: Float[Array, "b h w c"],
    boxes: Float[ArrayLike, "b r 4"],
    *,
    stride: float,
    size: tuple[int, int],
    samples: int = 2,
    aligned: bool = True,
) -> Float[Array, "b r {size[0]} {size[1]} c"]:
    """Return the mean of `samples` x `samples` places in each of `size` (rows, columns) bins of each box.

    Boxes are yxyx pixels of the image; `stride` of them are one pixel of the features. A place is sampled bilinearly. Pixels
    at the border extend one pixel beyond it; farther places are 0. With `aligned`, pixels have their centres at half a
    pixel, as everywhere in this project. Without it, centres are at whole pixels and a box has at least one pixel of the
    features, as in the first implementations and in torchvision's detectors.
    """
    form = partial(_align, (float(stride),), tuple(size), samples, aligned)
    return form((features,), boxes, jnp.zeros(boxes.shape[:-1], jnp.int32))


def roi_align_pyramid(
    features: Mapping[int, Float[Array, "b _h _w c"]],
    boxes: Float[ArrayLike, "b r 4"],
    *,
    size: tuple[int, int],
    samples: int = 2,
    aligned: bool = True,
) -> Float[Array, "b r {size[0]} {size[1]} c"]:
    """Run `roi_align` on features by their strides, with each box on its level of `assign_levels`."""
    strides = tuple(sorted(features))
    levels = assign_levels(boxes, strides)
    form = partial(_align, tuple(map(float, strides)), tuple(size), samples, aligned)
    return form(tuple(features[stride] for stride in strides), boxes, levels)


def assign_levels(boxes: Float[ArrayLike, "*batch 4"], strides: tuple[int, ...]) -> Int32[Array, "*batch"]:
    """Return the level of each box among `strides`, powers of two in rising order (Lin et al. 2017, equation 1).

    A box as large as ImageNet's images, 224 x 224, gets the stride 16; a box with half its sides gets the stride 8.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    # A box of exactly a power of two must not fall to the level below by rounding.
    exponent = jnp.floor(jnp.log2(jnp.sqrt(jnp.prod(sides, -1)).clip(1e-6) / 224) + 1e-6) + 4
    return (exponent - np.log2(strides[0])).clip(0, len(strides) - 1).astype(jnp.int32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _align(strides, size, samples, aligned, features, boxes, levels):
    forms = {name: partial(form, strides, size, samples, aligned) for name, form in FORMS.items()}
    return lax.platform_dependent(features, boxes, levels, tpu=forms["matrices"], default=forms["gathers"])


def _forward(strides, size, samples, aligned, features, boxes, levels):
    return _align(strides, size, samples, aligned, features, boxes, levels), (features, boxes, levels)


def _backward(strides, size, samples, aligned, saved, dy):
    features, boxes, levels = saved
    # In float32: where many boxes share a pixel, a sum in bfloat16 loses small values.
    zeros = tuple(jnp.zeros(level.shape, jnp.float32) for level in features)

    def transposed(form, boxes, levels, dy):
        return jax.vjp(lambda zeros: form(strides, size, samples, aligned, zeros, boxes, levels), zeros)[1](dy)

    forms = {name: partial(transposed, form) for name, form in FORMS.items()}
    arrays = boxes, levels, dy.astype(jnp.float32)
    (gradients,) = lax.platform_dependent(*arrays, tpu=forms["matrices"], default=forms["gathers"])
    gradients = tuple(own.astype(level.dtype) for own, level in zip(gradients, features, strict=True))
    return gradients, jnp.zeros_like(boxes), None


_align.defvjp(_forward, _backward)


def _by_gathers(strides, size, samples, aligned, features, boxes, levels):
    """Align by gathering four pixels for each place from one table of all levels' pixels."""
    channels = features[0].shape[-1]
    table = jnp.concatenate([level.reshape(level.shape[0], -1, channels) for level in features], 1)
    heights, widths = (np.array([level.shape[axis] for level in features]) for axis in (1, 2))
    firsts = np.cumsum([0, *heights * widths])[:-1]
    first, height, width, stride = (
        jnp.asarray(values)[levels] for values in (firsts, heights, widths, np.array(strides))
    )

    def taps(axis, limit):
        place = places(boxes, axis, stride[..., None], size[axis] * samples, aligned)
        known = (place >= -1) & (place <= limit[..., None])
        place = place.clip(0, limit[..., None] - 1)
        low = jnp.floor(place).astype(jnp.int32)
        high = jnp.minimum(low + 1, limit[..., None] - 1)
        share = place - low
        return (low, (1 - share) * known), (high, share * known)

    total = jnp.zeros(())
    for row, row_weight in taps(0, height):
        for column, column_weight in taps(1, width):
            index = first[..., None, None] + row[..., :, None] * width[..., None, None] + column[..., None, :]
            picked = jax.vmap(partial(jnp.take, axis=0))(table, index)
            total += picked * (row_weight[..., :, None] * column_weight[..., None, :])[..., None]
    batch, regions = boxes.shape[:2]
    bins = total.reshape(batch, regions, size[0], samples, size[1], samples, channels)
    return bins.mean((3, 5)).astype(features[0].dtype)


def _by_matrices(strides, size, samples, aligned, features, boxes, levels):
    """Align by two matrix products per level, which weight all rows and all columns for each box."""
    total = jnp.zeros(())
    for level, (stride, pixels) in enumerate(zip(strides, features, strict=True)):
        rows, columns = (
            _weights(places(boxes, axis, stride, size[axis] * samples, aligned), pixels.shape[axis + 1], samples)
            for axis in (0, 1)
        )
        rows *= (levels == level)[..., None, None]
        total += jax.vmap(_combine)(pixels, rows, columns)
    return total.astype(features[0].dtype)


def _combine(pixels, rows, columns):
    """Combine pixels [H,W,C] by rows [R,h,H] and columns [R,w,W] to [R,h,w,C] float32, some boxes at a time."""
    einsum = partial(jnp.einsum, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)

    @jax.checkpoint  # the rows [h,W,C] of all boxes together do not fit into memory
    def combine(own):
        lines = einsum("ph,hwc->pwc", own[0].astype(pixels.dtype), pixels)
        return einsum("qw,pwc->pqc", own[1], lines)

    return lax.map(combine, (rows, columns), batch_size=CHUNK)


def _weights(place, length, samples):
    """Return bilinear weights [R,n/samples,length] of places [R,n] on a line of `length` pixels, means of `samples` each."""
    known = (place >= -1) & (place <= length)
    distance = jnp.abs(place.clip(0, length - 1)[..., None] - jnp.arange(length))
    weights = (1 - distance).clip(0) * known[..., None]
    return weights.reshape(*place.shape[:-1], -1, samples, length).mean(-2)


def places(
    boxes: Float[ArrayLike, "*batch 4"],
    axis: int,
    stride: float | Float[Array, "*batch 1"],
    count: int,
    aligned: bool,
) -> Float[Array, "*batch {count}"]:
    """Return `count` evenly spaced places along an axis of each box, in pixels of the features.

    Place 0 is the centre of the first pixel.
    """
    start, end = (jnp.asarray(boxes)[..., axis + edge, None] / stride for edge in (0, 2))
    length = end - start if aligned else jnp.maximum(end - start, 1.0)
    return start - 0.5 * aligned + (jnp.arange(count) + 0.5) * length / count


FORMS = {"gathers": _by_gathers, "matrices": _by_matrices}
