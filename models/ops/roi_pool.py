"""RoI max pooling (Girshick 2015, "Fast R-CNN", section 2.1): the largest features of boxes whose edges are whole pixels.

`roi_pool` is called as `models.ops.roi_align.roi_align` is, and as there shapes are fixed, padding may hold any finite
boxes, and boxes get no gradient. It has one form for all platforms. `pool_windows` is what it shares with pooling in a
spatial pyramid, which maps boxes to pixels of the features in another way and has bins of several sizes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CHUNK = 64  # channels whose table is in memory at a time: of a map of 38x63 it takes 22 MB, and its places as much
FARTHEST = 2.0**20  # pixels of the features; an edge beyond counts as there, so that whole numbers do not overflow

Cells = tuple[jax.Array, jax.Array | None]  # values and, where they are wanted, their places: row * W + column


def roi_pool(features: jax.Array, boxes: jax.Array, *, stride: float, size: tuple[int, int]) -> jax.Array:
    """Features [B,H,W,C] in boxes [B,R,4] to [B,R,*size,C]: the largest value in each of `size` bins.

    Boxes are yxyx pixels of the image, `stride` of which are a pixel of the features. Their edges are rounded to whole
    pixels of the features, a half away from zero, and the pixel of the last edge belongs to the box. A bin has each pixel
    that it touches, so that bins may share some; a bin outside the features is 0. Of equal values the first one, row by
    row, gets the gradient. torchvision differs in one place: it divides in float32, so that the last bin of a few lengths,
    such as 57 pixels in 7 bins, has a pixel more there.
    """
    windows = lax.round(to_features(boxes, stride)).astype(jnp.int32)
    return pool_windows(features, windows, (size,)).reshape(*boxes.shape[:-1], *size, -1)


def to_features(boxes: jax.Array, stride: float) -> jax.Array:
    """Boxes [...,4] in pixels of the image to those in pixels of the features, not rounded and nowhere too far."""
    return (boxes / stride).clip(-FARTHEST, FARTHEST)


def pool_windows(features: jax.Array, windows: jax.Array, sizes: tuple[tuple[int, int], ...]) -> jax.Array:
    """Features [B,H,W,C] in windows [B,R,4] to [B,R,N,C]: the largest value in each bin of all `sizes`, one after another.

    Windows are int32, the first and the last (row, column) in pixels of the features, and at least one pixel is taken.
    N is the sum of height * width of `sizes`; the bins of a size stand row by row. Of n pixels and k bins, bin i has those
    from floor(i * n / k) to ceil((i + 1) * n / k), the end not included (He et al. 2014, "Spatial Pyramid Pooling in Deep
    Convolutional Networks for Visual Recognition", appendix A). A bin outside the features is 0.
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
    """The largest values [B,R,N,C] and their places; an empty bin's place is H * W, which does not exist."""
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
    """The first pixels and the ends, which are one more than the last, of `count` bins of windows [...,4]: [...,count]."""
    start, last = (windows[..., axis + edge, None] for edge in (0, 2))
    number, pixels = jnp.arange(count), jnp.maximum(last - start + 1, 1)
    first, end = number * pixels // count, -(-(number + 1) * pixels // count)
    return (start + first).clip(0, length), (start + end).clip(0, length)


def _table(cells: Cells) -> Cells:
    """The sparse table of cells [B,H,W,c]: the largest of 2^i rows and 2^j columns from every pixel on, as one line of all."""
    table = _runs(_runs(cells, 1), 3)  # [B,row level,H,column level,W,c]
    return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, x.shape[-1]), table)


def _query(
    table: Cells, size: tuple[int, int], rows: tuple[jax.Array, jax.Array], columns: tuple[jax.Array, jax.Array]
) -> Cells:
    """The largest cells in all pairs of a range of `rows`, (first, end) [B,R,h], and one of `columns` [B,R,w]: [B,R,h,w,c].

    `table` is that of cells of `size` (height, width). Two runs of a power of two, which may overlap, cover a range of any
    length, so that a rectangle of any size takes four entries. That of an empty one is 0, and its place height * width.
    """
    height, width = size
    (row_level, tops), (column_level, lefts) = _cover(*rows, height), _cover(*columns, width)
    found = None
    for top in tops:
        for left in lefts:
            line, column = row_level * height + top, column_level * width + left
            entry = line[..., :, None] * (width.bit_length() * width) + column[..., None, :]
            own = jax.tree.map(lambda x, entry=entry: jax.vmap(partial(jnp.take, axis=0))(x, entry), table)
            found = own if found is None else _larger(found, own)
    empty = ((rows[1] <= rows[0])[..., :, None] | (columns[1] <= columns[0])[..., None, :])[..., None]
    values, places = found
    return jnp.where(empty, 0, values), None if places is None else jnp.where(empty, height * width, places)


def _runs(cells: Cells, axis: int) -> Cells:
    """The largest of 1, 2, 4 ... cells along an axis, from each one on, side by side along a new axis before that one.

    Runs that would reach beyond the end hold anything.
    """
    runs = [cells]
    for level in range(cells[0].shape[axis].bit_length() - 1):
        runs.append(_larger(runs[-1], jax.tree.map(lambda x, step=2**level: jnp.roll(x, -step, axis), runs[-1])))
    return jax.tree.map(lambda *x: jnp.stack(x, axis), *runs)


def _cover(first: jax.Array, end: jax.Array, length: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The level of two runs that cover a range, and where they start; any of an empty range."""
    levels = np.array([max(n.bit_length() - 1, 0) for n in range(length + 1)])
    level, run = (jnp.asarray(table)[(end - first).clip(0)] for table in (levels, 2**levels))
    return level, (first.clip(0, length - 1), (end - run).clip(0, length - 1))


def _larger(a: Cells, b: Cells) -> Cells:
    """The larger of each pair; of equal ones that of the lower place."""
    (value, place), (other, other_place) = a, b
    if place is not None:
        place = jnp.where((other > value) | ((other == value) & (other_place < place)), other_place, place)
    return jnp.maximum(value, other), place
