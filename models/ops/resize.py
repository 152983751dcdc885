"""Resizing: bilinear as two linear maps, of the lines along the height and along the width, and doubling.

Each map is a small matrix product. On the CPU it is a weighted sum of two picked lines instead, and backwards of the few
that sampled a pixel: XLA's matrix products of few channels are ten times slower there, its picked lines elsewhere.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MOST_TAPS = 32  # beyond them the matrix product is faster on the CPU too, and the program shorter


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """x [B,h,w,C] sampled bilinearly at the centres of `size` = (height, width) pixels: [B,height,width,C].

    Centres are half a pixel from their pixel's edges (PyTorch's align_corners=False) and the border's pixels extend
    beyond it. Nothing is averaged before sampling, so a smaller size may skip pixels, as antialias=False elsewhere.
    """
    # The axis that grows less is resized first: the other then has fewer lines.
    growth = [new / old for new, old in zip(size, x.shape[1:3], strict=True)]
    for axis in sorted((0, 1), key=growth.__getitem__):
        if x.shape[axis + 1] != size[axis]:
            x = _resize(x, axis + 1, x.shape[axis + 1], size[axis])
    return x


def double(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Each pixel of x [B,h,w,C] twice in each direction, cut to `size` (height, width): [B,height,width,C].

    `size` is at most twice h and w. Where h = ceil(height / 2) this is nearest sampling, of the pixel floor(i * h / height)
    for row i, and the same for columns.
    """
    batch, height, width, channels = x.shape
    doubled = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return doubled.reshape(batch, 2 * height, 2 * width, channels)[:, : size[0], : size[1]]


def weights(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] that samples a line of `old` pixels at `new` places: at most two weights per row, sum 1."""
    place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(old))).astype(np.float32)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _resize(x: jax.Array, axis: int, old: int, new: int) -> jax.Array:
    return _map_lines(x, axis, weights(old, new))


def _forward(x, axis, old, new):
    return _resize(x, axis, old, new), None


def _backward(axis, old, new, _, dy):
    return (_map_lines(dy, axis, weights(old, new).T),)


_resize.defvjp(_forward, _backward)


def _map_lines(x: jax.Array, axis: int, matrix: np.ndarray) -> jax.Array:
    """The lines of x along `axis` combined by `matrix` [lines out, lines in]."""
    product = partial(_matrix_product, axis, matrix)
    if (matrix != 0).sum(1).max() > MOST_TAPS:
        return product(x)
    return lax.platform_dependent(x, cpu=partial(_picked_sum, axis, matrix), default=product)


def _matrix_product(axis, matrix, x):
    y = lax.dot_general(
        x,
        jnp.asarray(matrix, x.dtype),
        (((axis,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,  # weights of float32 stay such on accelerators
        preferred_element_type=jnp.float32,
    )
    return jnp.moveaxis(y, -1, axis).astype(x.dtype)


def _picked_sum(axis, matrix, x):
    taps = (matrix != 0).sum(1).max()
    # The places of each row's weights; where it has fewer than `taps`, zeros fill up.
    lines = np.argsort(matrix == 0, 1, kind="stable")[:, :taps]
    factors = np.take_along_axis(matrix, lines, 1)
    shape = [-1 if place == axis else 1 for place in range(x.ndim)]
    y = sum(jnp.take(x, lines[:, tap], axis) * factors[:, tap].reshape(shape) for tap in range(taps))
    return lax.optimization_barrier(y.astype(x.dtype))
