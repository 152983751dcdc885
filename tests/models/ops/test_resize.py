"""Resizing equals jax.image and hand-computed samples in values and gradients, in every platform's implementation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.resize import MOST_TAPS, _matrix_product, _picked_sum, double, resize, weights


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def value_and_gradient(function, x, dy):
    y, pullback = jax.vjp(function, x)
    return y, *pullback(dy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((3, 4), (12, 16)),
        ((5, 3), (7, 11)),  # the factors are not whole numbers
        ((1, 1), (3, 4)),
        ((7, 9), (4, 3)),  # smaller, so some pixels are never sampled
        ((6, 2), (2, 5)),
        ((4, 3), (4, 5)),
        ((2, 1), (5, MOST_TAPS + 3)),  # more lines sample one pixel than the CPU implementation supports
    ],
)
def test_resize_and_its_gradient_equal_jax_image(old, new):
    x, dy = random(2, *old, 3), random(2, *new, 3)

    def reference(x):
        return jax.image.resize(x, (2, *new, 3), "linear", antialias=False)

    both = jax.jit(lambda *inputs: [value_and_gradient(f, *inputs) for f in (partial(resize, size=new), reference)])
    for a, b in zip(*both(x, dy), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_lines_are_sampled_at_half_pixel_centres():
    # The centres of the four new pixels are at -0.25, 0.25, 0.75 and 1.25 in the two old ones. The border is repeated.
    np.testing.assert_array_equal(weights(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    # The centres of two new pixels are at 0.25 and 1.75 in three old ones.
    np.testing.assert_array_equal(weights(3, 2), [[0.75, 0.25, 0], [0, 0.25, 0.75]])
    y = jax.jit(partial(resize, size=(3, 4)))(np.float32([0, 4]).reshape(1, 1, 2, 1))
    np.testing.assert_array_equal(np.asarray(y)[0, :, :, 0], [[0, 1, 3, 4]] * 3)


def test_resize_to_the_same_size_returns_the_input():
    x = jnp.asarray(random(1, 3, 5, 2))
    assert resize(x, (3, 5)) is x


def test_bfloat16_is_rounded_once_per_axis():
    x = random(2, 5, 3, 4).astype(jnp.bfloat16)
    low, high = jax.jit(lambda x: (resize(x, (11, 8)), resize(x.astype(jnp.float32), (11, 8))))(x)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, np.float32), high, rtol=2**-7, atol=2**-7)


def test_only_the_cpu_gathers_lines():
    traced = jax.jit(jax.grad(lambda x: (resize(x, (12, 16)) ** 2).sum())).trace(random(2, 3, 4, 5))
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "dot_general" in text and "gather" not in text and "scatter" not in text
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "gather" in text and "dot_general" not in text and "scatter" not in text


def test_matrix_product_equals_the_picked_sum():
    matrix = weights(5, 11)

    @partial(jax.jit, static_argnums=1)
    def both(x, transposed):
        own = matrix.T if transposed else matrix
        return _matrix_product(1, own, x), _picked_sum(1, own, x)

    np.testing.assert_allclose(*both(random(2, 5, 3, 4), False), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(*both(random(2, 11, 3, 4), True), rtol=1e-5, atol=1e-5)


def test_double_is_nearest_sampling_for_any_size():
    inputs, expected = {}, {}
    for size in [(height, width) for height in (1, 2, 3, 6, 13) for width in (height, 15 - height)]:
        small = [-(-side // 2) for side in size]
        x = np.arange(2 * small[0] * small[1], dtype=np.float32).reshape(1, *small, 2)
        rows, columns = ([i * low // high for i in range(high)] for low, high in zip(small, size, strict=True))
        inputs[size], expected[size] = x, x[:, rows][:, :, columns]
    found = jax.jit(lambda inputs: {size: double(x, size) for size, x in inputs.items()})(inputs)
    for size, y in found.items():
        np.testing.assert_array_equal(y, expected[size])
