"""Max pooling with a gradient that XLA's CPU backend runs fast, chosen as models.ops.convolution describes."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from models.ops.convolution import Padding, Pads


def max_pool(x: Float[Array, "b h w c"], size: int, stride: int, padding: Padding) -> Float[Array, "b _h _w c"]:
    """Return the largest value of each channel in windows of size x size pixels, which are `stride` pixels apart.

    `padding` is "SAME", "VALID" or ((top, bottom), (left, right)); padded pixels count as -inf. "SAME" with size =
    stride = 2 keeps the half window at the end of an odd size, as Caffe does by rounding up. Of several largest pixels in a
    window, the first one, row by row, gets the gradient.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), padding)
    return _max_pool(x, size, stride, tuple(map(tuple, padding)))


def _native_max_pool(size, stride, pads, x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), ((0, 0), *pads, (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, size: int, stride: int, pads: Pads) -> jax.Array:
    return _native_max_pool(size, stride, pads, x)


def _native_gradient(size, stride, pads, x, y, dy):
    return jax.vjp(partial(_native_max_pool, size, stride, pads), x)[1](dy)[0]


def _gradient(size, stride, pads, x, y, dy):
    zero, free, shares = jnp.zeros((), dy.dtype), True, []
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    height, width = ((count - 1) * stride + 1 for count in dy.shape[1:3])
    for top in range(size):
        for left in range(size):
            hit = (padded[:, top : top + height : stride, left : left + width : stride] == y) & free
            free = free & ~hit
            shares.append(jnp.where(hit, dy, zero))

    # In one dimension, pixel i * stride + j of the padded input is number j of window i, number j + stride of window i - 1 ...
    more = math.ceil(size / stride) - 1  # windows before i that still reach the pixel

    def phase(top: int, left: int) -> jax.Array:
        """Return the gradient of every stride-th row and column of the padded input, from row `top` and column `left` on."""
        total = zero
        for i, row in enumerate(range(top, size, stride)):
            for j, column in enumerate(range(left, size, stride)):
                config = ((0, 0, 0), (i, more - i, 0), (j, more - j, 0), (0, 0, 0))
                total += lax.pad(shares[row * size + column], zero, config)
        return jnp.broadcast_to(total, (len(dy), dy.shape[1] + more, dy.shape[2] + more, dy.shape[3]))

    rows = [jnp.stack([phase(top, left) for left in range(stride)], 3) for top in range(stride)]
    batch, height, _, width, _, channels = (full := jnp.stack(rows, 2)).shape
    full = full.reshape(batch, height * stride, width * stride, channels)
    crop = [(-pad[0], pad[0] + x.shape[i] - full.shape[i], 0) for i, pad in enumerate(pads, 1)]
    return lax.pad(full, zero, ((0, 0, 0), *crop, (0, 0, 0)))


def _forward(x, size, stride, pads):
    y = _max_pool(x, size, stride, pads)
    return y, (x, y)


def _backward(size, stride, pads, saved, dy):
    native, fast = partial(_native_gradient, size, stride, pads), partial(_gradient, size, stride, pads)
    return (lax.platform_dependent(*saved, dy, cpu=fast, default=native),)


_max_pool.defvjp(_forward, _backward)
