"""Bilinear resizing as two linear maps, one along the height and one along the width, and doubling.

Each map is a small matrix product. On the CPU each result is a weighted sum of two picked lines instead; the gradient of a
line is a sum of the few results that sampled it. On the CPU, XLA's matrix products of few channels are ten times slower than
picked lines; elsewhere picked lines are slower.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

MOST_TAPS = 32  # with more taps the matrix product is faster on the CPU too, and the program is shorter


def resize(x: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b {size[0]} {size[1]} c"]:
    """Sample x bilinearly at the centres of `size` = (height, width) pixels.

    A centre is half a pixel from its pixel's edges (PyTorch's align_corners=False). Pixels at the border extend beyond it.
    Nothing is averaged before sampling, so a smaller size may skip pixels, like antialias=False in other libraries.
    """
    # The axis that grows less comes first, because the other axis then has fewer lines to resize.
    growth = [new / old for new, old in zip(size, x.shape[1:3], strict=True)]
    for axis in sorted((0, 1), key=growth.__getitem__):
        if x.shape[axis + 1] != size[axis]:
            x = _resize(x, axis + 1, x.shape[axis + 1], size[axis])
    return x


def double(x: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b {size[0]} {size[1]} c"]:
    """Repeat each pixel of x twice in each direction, and cut the result to `size` (height, width).

    `size` is at most twice h and w. If h = ceil(height / 2), this is nearest sampling: row i is row floor(i * h / height) of
    x. The same holds for columns.
    """
    batch, height, width, channels = x.shape
    doubled = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return doubled.reshape(batch, 2 * height, 2 * width, channels)[:, : size[0], : size[1]]


def weights(old: int, new: int) -> Float32[np.ndarray, "{new} {old}"]:
    """Return the matrix that samples a line of `old` pixels at `new` places, with at most two weights per row, of sum 1."""
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
    """Combine the lines of x along `axis` by `matrix` [lines out, lines in]."""
    product = partial(_matrix_product, axis, matrix)
    if (matrix != 0).sum(1).max() > MOST_TAPS:
        return product(x)
    return lax.platform_dependent(x, cpu=partial(_picked_sum, axis, matrix), default=product)


def _matrix_product(axis, matrix, x):
    y = lax.dot_general(
        x,
        jnp.asarray(matrix, x.dtype),
        (((axis,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,  # accelerators round float32 weights otherwise
        preferred_element_type=jnp.float32,
    )
    return jnp.moveaxis(y, -1, axis).astype(x.dtype)


def _picked_sum(axis, matrix, x):
    taps = (matrix != 0).sum(1).max()
    # The places of each row's weights; a row with fewer than `taps` of them is filled up with zeros.
    lines = np.argsort(matrix == 0, 1, kind="stable")[:, :taps]
    factors = np.take_along_axis(matrix, lines, 1)
    shape = [-1 if place == axis else 1 for place in range(x.ndim)]
    y = sum(jnp.take(x, lines[:, tap], axis) * factors[:, tap].reshape(shape) for tap in range(taps))
    return lax.optimization_barrier(jnp.asarray(y, x.dtype))
