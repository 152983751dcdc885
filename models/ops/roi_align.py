"""RoIAlign (He et al. 2017, "Mask R-CNN", section 3): features of boxes, sampled without rounding.

The functions take arrays alone and need nothing else of this project. Their shapes are fixed, so that one compiled program
serves all: padding may hold any finite boxes. They are linear in the features and carry no gradient to the boxes.

There are two forms, equal but for rounding. On a TPU, where large gathers are slow, each box's rows and columns are weighted
sums of all; elsewhere its places are gathered.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CHUNK = 64  # boxes whose rows a matrix product makes at a time: of 800x1344 images 150 MB


def roi_align(
    features: jax.Array,
    boxes: jax.Array,
    *,
    stride: float,
    size: tuple[int, int],
    samples: int = 2,
    aligned: bool = True,
) -> jax.Array:
    """Features [B,H,W,C] in boxes [B,R,4] to [B,R,*size,C]: the mean of `samples` x `samples` places in each of `size` bins.

    Boxes are yxyx pixels of the image, `stride` of which are a pixel of the features. A place is sampled bilinearly, the
    border's pixels extend by one pixel beyond it, and farther places are 0. `aligned` says that pixels have their centres
    at half a pixel, as everywhere in this project; without, centres are at whole pixels and a box has one pixel of the
    features at least, as in the first implementations and in torchvision's detectors.
    """
    form = partial(_align, (float(stride),), tuple(size), samples, aligned)
    return form((features,), boxes, jnp.zeros(boxes.shape[:-1], jnp.int32))


def roi_align_pyramid(
    features: Mapping[int, jax.Array],
    boxes: jax.Array,
    *,
    size: tuple[int, int],
    samples: int = 2,
    aligned: bool = True,
) -> jax.Array:
    """As `roi_align`, from features {stride: [B,h,w,C]}: each box from its level by `assign_levels`."""
    strides = tuple(sorted(features))
    levels = assign_levels(boxes, strides)
    form = partial(_align, tuple(map(float, strides)), tuple(size), samples, aligned)
    return form(tuple(features[stride] for stride in strides), boxes, levels)


def assign_levels(boxes: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """The level of boxes [...,4] among `strides`, powers of two in rising order: [...] int32 (Lin et al. 2017, equation 1).

    A box as large as ImageNet's images, 224 x 224, has the stride 16, one of half its sides the stride 8.
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
    # In float32: where many boxes share a pixel, a sum in bfloat16 loses what is small.
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
    """Four pixels for each place, from one table of all levels' pixels."""
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

    total = 0.0
    for row, row_weight in taps(0, height):
        for column, column_weight in taps(1, width):
            index = first[..., None, None] + row[..., :, None] * width[..., None, None] + column[..., None, :]
            picked = jax.vmap(partial(jnp.take, axis=0))(table, index)
            total += picked * (row_weight[..., :, None] * column_weight[..., None, :])[..., None]
    batch, regions = boxes.shape[:2]
    bins = total.reshape(batch, regions, size[0], samples, size[1], samples, channels)
    return bins.mean((3, 5)).astype(features[0].dtype)


def _by_matrices(strides, size, samples, aligned, features, boxes, levels):
    """The rows and the columns of each box as weighted sums of all rows and columns: two matrix products for each level."""
    total = 0.0
    for level, (stride, pixels) in enumerate(zip(strides, features, strict=True)):
        rows, columns = (
            _weights(places(boxes, axis, stride, size[axis] * samples, aligned), pixels.shape[axis + 1], samples)
            for axis in (0, 1)
        )
        rows *= (levels == level)[..., None, None]
        total += jax.vmap(_combine)(pixels, rows, columns)
    return total.astype(features[0].dtype)


def _combine(pixels, rows, columns):
    """pixels [H,W,C], rows [R,h,H] and columns [R,w,W] -> [R,h,w,C] float32, some boxes at a time."""
    exact = dict(precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)

    @jax.checkpoint  # the rows [h,W,C] of all boxes together do not fit into memory
    def combine(own):
        lines = jnp.einsum("ph,hwc->pwc", own[0].astype(pixels.dtype), pixels, **exact)
        return jnp.einsum("qw,pwc->pqc", own[1], lines, **exact)

    return lax.map(combine, (rows, columns), batch_size=CHUNK)


def _weights(place, length, samples):
    """Bilinear weights [R,n/samples,length] of places [R,n] on a line of `length` pixels, the mean of `samples` each."""
    known = (place >= -1) & (place <= length)
    distance = jnp.abs(place.clip(0, length - 1)[..., None] - jnp.arange(length))
    weights = (1 - distance).clip(0) * known[..., None]
    return weights.reshape(*place.shape[:-1], -1, samples, length).mean(-2)


def places(boxes, axis, stride, count, aligned):
    """Where `count` places lie along an axis of boxes [...,4], evenly: [...,count], in pixels of the features.

    The centre of the first pixel is 0.
    """
    start, end = (boxes[..., axis + edge, None] / stride for edge in (0, 2))
    length = end - start if aligned else jnp.maximum(end - start, 1.0)
    return start - 0.5 * aligned + (jnp.arange(count) + 0.5) * length / count


FORMS = {"gathers": _by_gathers, "matrices": _by_matrices}
