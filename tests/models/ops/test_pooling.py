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


def value_and_gradient(function, x, dy):
    y, pullback = jax.vjp(function, x)
    return y, *pullback(dy)


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
    x = generator.permutation(2 * 3 * shape[0] * shape[1]).reshape(2, *shape, 3).astype(np.float32) - 100  # no ties
    pool, native = (partial(f, size=size, stride=stride, padding=padding) for f in (max_pool, reference))
    dy = generator.standard_normal(jax.eval_shape(native, x).shape).astype(np.float32)
    both = jax.jit(lambda x, dy: [value_and_gradient(function, x, dy) for function in (pool, native)])
    (got, gradient), (expected, expected_gradient) = both(x, dy)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


def test_windows_and_ties_equal_hand_computed_values():
    x = np.float32([[1, 5, 2], [5, 0, 2], [-3, -4, 7]])[None, :, :, None]
    dy = np.float32([[10, 20], [30, 40]])[None, :, :, None]
    pool = partial(max_pool, size=2, stride=2, padding="SAME")
    y, dx = map(np.asarray, jax.jit(partial(value_and_gradient, pool))(x, dy))
    np.testing.assert_array_equal(y[0, :, :, 0], [[5, 2], [-3, 7]])
    np.testing.assert_array_equal(dx[0, :, :, 0], [[0, 10, 20], [0, 0, 0], [30, 0, 40]])


def test_bfloat16_input_gives_bfloat16_output():
    x, dy = np.arange(16).reshape(1, 4, 4, 1).astype(jnp.bfloat16), np.ones((1, 2, 2, 1), jnp.bfloat16)
    pool = partial(max_pool, size=3, stride=2, padding="SAME")
    y, dx = jax.jit(partial(value_and_gradient, pool))(x, dy)
    assert y.dtype == dx.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32)[0, :, :, 0], [[10, 11], [14, 15]])


def test_other_platforms_differentiate_reduce_window():
    traced = jax.jit(jax.grad(lambda x: max_pool(x, 3, 2, "SAME").sum())).trace(jnp.ones((1, 8, 8, 2)))
    for platform, native in (("tpu", True), ("cuda", True), ("cpu", False)):
        assert ("select_and_scatter" in traced.lower(lowering_platforms=(platform,)).as_text()) == native, platform
