"""Max pooling equals lax.reduce_window.

Its gradient goes to the first of the largest pixels, in the CPU implementation too.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.ops.pooling import max_pool


def reference(x, size, stride, padding):
    padding = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), padding)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [
        ((6, 8), 2, 2, "SAME"),
        ((7, 5), 2, 2, "SAME"),
        ((7, 5), 2, 2, "VALID"),  # no window reads the last row and column
        ((7, 6), 3, 2, "SAME"),
        ((7, 6), 3, 2, ((1, 1), (1, 1))),
        ((5, 7), 3, 1, "SAME"),
        ((8, 9), 5, 2, ((0, 3), (2, 1))),
        ((8, 7), 2, 3, "VALID"),  # the stride is longer than the window
    ],
)
def test_max_pool_and_its_gradient_equal_reduce_window(shape, size, stride, padding):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.permutation(2 * 3 * shape[0] * shape[1]).reshape(2, *shape, 3) - 100.0)  # no ties
    settings = dict(size=size, stride=stride, padding=padding)
    expected, pullback = jax.vjp(partial(reference, **settings), x)
    got, our_pullback = jax.vjp(jax.jit(partial(max_pool, **settings)), x)
    np.testing.assert_array_equal(got, expected)
    dy = jnp.asarray(generator.standard_normal(expected.shape), jnp.float32)
    np.testing.assert_allclose(our_pullback(dy)[0], pullback(dy)[0], rtol=1e-5, atol=1e-6)


def test_windows_and_ties_equal_hand_computed_values():
    x = jnp.array([[1.0, 5, 2], [5, 0, 2], [-3, -4, 7]])[None, :, :, None]
    y, pullback = jax.vjp(lambda x: max_pool(x, 2, 2, "SAME"), x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 2], [-3, 7]])
    (dx,) = pullback(jnp.array([[10.0, 20], [30, 40]])[None, :, :, None])
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 10, 20], [0, 0, 0], [30, 0, 40]])


def test_bfloat16_input_gives_bfloat16_output():
    x = jnp.arange(16, dtype=jnp.bfloat16).reshape(1, 4, 4, 1)
    y, pullback = jax.vjp(lambda x: max_pool(x, 3, 2, "SAME"), x)
    (dx,) = pullback(jnp.ones_like(y))
    assert y.dtype == dx.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[0, :, :, 0].astype(jnp.float32), [[10, 11], [14, 15]])


def test_other_platforms_differentiate_reduce_window():
    traced = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, "SAME").sum())).trace(jnp.ones((1, 8, 8, 2)))
    for platform, native in (("tpu", True), ("cuda", True), ("cpu", False)):
        assert ("select_and_scatter" in traced.lower(lowering_platforms=(platform,)).as_text()) == native, platform
