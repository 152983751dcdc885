"""RoI max pooling (Girshick 2015, "Fast R-CNN", section 2.1), for boxes whose edges are whole pixels.

`roi_pool` has the arguments of `models.ops.roi_align.roi_align`. Shapes are fixed, padding may contain any finite boxes, and
boxes get no gradient. It has one form for all platforms. Pooling in a spatial pyramid shares `pool_windows`, but maps boxes
to pixels of the features in another way and has bins of several sizes.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from models.ops import ArrayLike

CHUNK = 64  # channels whose table is in memory at a time: 22 MB for a map of 38x63, and as much for its places
FARTHEST = 2.0**20  # pixels of the features; edges beyond are moved here, so that integers do not overflow

Cells = tuple[jax.Array, jax.Array | None]  # values and, if wanted, their places: row * W + column


def roi_pool(
    features: Float[Array, "b h w c"], boxes: Float[ArrayLike, "b r 4"], *, stride: float, size: tuple[int, int]
) -> Float[Array, "b r {size[0]} {size[1]} c"]:
    """Return the largest value in each of `size` (rows, columns) bins of each box.

    Boxes are yxyx pixels of the image; `stride` of them are one pixel of the features. Edges are rounded to whole pixels of
    the features, a half away from zero, and the pixel of the last edge belongs to the box. A bin has each pixel that it
    touches, so bins may share pixels; a bin outside the features is 0. Of equal values the first one, row by row, gets the
    gradient. torchvision divides in float32: there the last bin of a few lengths, such as 57 pixels in 7 bins, has one pixel
    more.
    """
    windows = lax.round(to_features(boxes, stride)).astype(jnp.int32)
    return pool_windows(features, windows, (size,)).reshape(*boxes.shape[:-1], *size, -1)


def to_features(boxes: Float[ArrayLike, "*batch 4"], stride: float) -> Float[Array, "*batch 4"]:
    """Convert boxes from pixels of the image to pixels of the features, without rounding, limited to `FARTHEST`."""
    return jnp.clip(boxes / stride, -FARTHEST, FARTHEST)


def pool_windows(
    features: Float[Array, "b h w c"], windows: Int32[Array, "b r 4"], sizes: tuple[tuple[int, int], ...]
) -> Float[Array, "b r n c"]:
    """Return the largest value in each bin of each window, for all `sizes` (rows, columns) one after another.

    A window is the first and the last (row, column) in pixels of the features; at least one pixel is taken. n is the sum of
    rows * columns of `sizes`; the bins of a size are ordered row by row. If a side has p pixels and k bins, bin i has the
    pixels from floor(i * p / k) to ceil((i + 1) * p / k), the end not included (He et al. 2014, "Spatial Pyramid Pooling in
    Deep Convolutional Networks for Visual Recognition", appendix A). A bin outside the features is 0.
    """
    return _pool(tuple(map(tuple, sizes)), features, windows)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(sizes, features, windows):
    return _find(sizes, features, windows, with_places=False)[0]


def _forward(sizes, features, windows):
    values, places = _find(sizes, features, windows, with_places=True)
    return values, (features, places)


def _backward(sizes, saved, dy):
    features, places = saved
    batch, height, width, channels = features.shape

    def add(places, dy):
        return jnp.zeros((height * width, channels)).at[places, jnp.arange(channels)].add(dy, mode="drop")

    places, dy = (x.reshape(batch, -1, channels) for x in (places, dy.astype(jnp.float32)))
    return jax.vmap(add)(places, dy).reshape(features.shape).astype(features.dtype), None


_pool.defvjp(_forward, _backward)


def _find(sizes, features, windows, *, with_places) -> Cells:
    """Return the largest values [B,R,N,C] and their places.

    An empty bin has the place H * W, which does not exist.
    """
    batch, height, width, channels = features.shape
    bins = [[_bins(windows, axis, size[axis], (height, width)[axis]) for axis in (0, 1)] for size in sizes]

    def find(pixels):
        places = jnp.arange(height * width, dtype=jnp.int32).reshape(1, height, width, 1)
        table = _table((pixels, jnp.broadcast_to(places, pixels.shape) if with_places else None))
        found = [_query(table, (height, width), rows, columns) for rows, columns in bins]
        return jax.tree.map(
            lambda *x: jnp.concatenate([own.reshape(*own.shape[:2], -1, chunk) for own in x], 2), *found
        )

    chunk = min(CHUNK, channels)
    chunks = jnp.pad(features, ((0, 0), (0, 0), (0, 0), (0, -channels % chunk)))
    found = lax.map(find, jnp.moveaxis(chunks.reshape(batch, height, width, -1, chunk), 3, 0))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)[..., :channels], found)


def _bins(windows, axis, count, length) -> tuple[jax.Array, jax.Array]:
    """Return the first pixels and the ends (one after the last pixel) of `count` bins of windows [...,4], both [...,count]."""
    start, last = (windows[..., axis + edge, None] for edge in (0, 2))
    number, pixels = jnp.arange(count), jnp.maximum(last - start + 1, 1)
    first, end = number * pixels // count, -(-(number + 1) * pixels // count)
    return (start + first).clip(0, length), (start + end).clip(0, length)


def _table(cells: Cells) -> Cells:
    """Return the sparse table of cells [B,H,W,c], flat, with the largest of 2^i rows and 2^j columns from every pixel on."""
    table = _runs(_runs(cells, 1), 3)  # [B,row level,H,column level,W,c]
    return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, x.shape[-1]), table)


def _query(
    table: Cells, size: tuple[int, int], rows: tuple[jax.Array, jax.Array], columns: tuple[jax.Array, jax.Array]
) -> Cells:
    """Return the largest cells [B,R,h,w,c] in each rectangle of a range of `rows` [B,R,h] and one of `columns` [B,R,w].

    A range is (first, end). `table` is the table of cells of `size` (height, width). Two runs of a power of two, which may
    overlap, cover a range of any length, so a rectangle of any size takes four entries. An empty rectangle has the value 0
    and the place height * width.
    """
    height, width = size
    (row_level, tops), (column_level, lefts) = _cover(*rows, height), _cover(*columns, width)

    def pick(top: jax.Array, left: jax.Array) -> Cells:
        line, column = row_level * height + top, column_level * width + left
        entry = line[..., :, None] * (width.bit_length() * width) + column[..., None, :]
        return jax.tree.map(lambda x: jax.vmap(partial(jnp.take, axis=0))(x, entry), table)

    values, places = reduce(_larger, (pick(top, left) for top in tops for left in lefts))
    empty = ((rows[1] <= rows[0])[..., :, None] | (columns[1] <= columns[0])[..., None, :])[..., None]
    return jnp.where(empty, 0, values), None if places is None else jnp.where(empty, height * width, places)


def _runs(cells: Cells, axis: int) -> Cells:
    """Return the largest of 1, 2, 4 ... cells along an axis, from each cell on, stacked along a new axis before it.

    Runs that reach beyond the end have arbitrary values.
    """
    runs = [cells]
    for level in range(cells[0].shape[axis].bit_length() - 1):
        runs.append(_larger(runs[-1], jax.tree.map(lambda x, step=2**level: jnp.roll(x, -step, axis), runs[-1])))
    return jax.tree.map(lambda *x: jnp.stack(x, axis), *runs)


def _cover(first: jax.Array, end: jax.Array, length: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Return the level of two runs that cover a range, and their starts.

    They are arbitrary for an empty range.
    """
    levels = np.array([max(n.bit_length() - 1, 0) for n in range(length + 1)])
    level, run = (jnp.asarray(table)[(end - first).clip(0)] for table in (levels, 2**levels))
    return level, (first.clip(0, length - 1), (end - run).clip(0, length - 1))


def _larger(a: Cells, b: Cells) -> Cells:
    """Return the larger cell of each pair.

    Of equal cells, the one with the lower place.
    """
    (value, place), (other, other_place) = a, b
    if place is not None and other_place is not None:
        place = jnp.where((other > value) | ((other == value) & (other_place < place)), other_place, place)
    return jnp.maximum(value, other), place
