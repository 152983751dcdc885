"""Resizing equals jax.image's and hand-computed samples, in value and gradient, in the form of every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops.resize import MOST_TAPS, _matrix_product, _picked_sum, double, resize, weights


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def value_and_gradient(function, x, dy):
    y, pullback = jax.vjp(function, x)
    return y, *pullback(dy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((3, 4), (12, 16)),
        ((5, 3), (7, 11)),  # no whole factor
        ((1, 1), (3, 4)),
        ((7, 9), (4, 3)),  # smaller: pixels that nothing samples
        ((6, 2), (2, 5)),
        ((4, 3), (4, 5)),
        ((2, 1), (5, MOST_TAPS + 3)),  # a pixel that more lines sample than the CPU's form takes
    ],
)
def test_equals_jax_image_with_its_gradient(old, new):
    x, dy = random(2, *old, 3), random(2, *new, 3)

    def reference(x):
        return jax.image.resize(x, (2, *new, 3), "linear", antialias=False)

    ours = jax.jit(lambda x, dy: value_and_gradient(lambda x: resize(x, new), x, dy))(x, dy)
    theirs = jax.jit(lambda x, dy: value_and_gradient(reference, x, dy))(x, dy)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_lines_are_sampled_at_half_pixel_centres():
    # Centres of four pixels lie at -0.25, 0.25, 0.75 and 1.25 of the two old ones; the border extends.
    np.testing.assert_array_equal(weights(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    # Those of two pixels at 0.25 and 1.75 of three.
    np.testing.assert_array_equal(weights(3, 2), [[0.75, 0.25, 0], [0, 0.25, 0.75]])
    y = resize(jnp.asarray([0.0, 4.0]).reshape(1, 1, 2, 1), (3, 4))
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 1, 3, 4]] * 3)


def test_the_own_size_is_left_alone():
    x = random(1, 3, 5, 2)
    assert resize(x, (3, 5)) is x


def test_bfloat16_is_rounded_at_the_end_of_each_axis_only():
    x = random(2, 5, 3, 4).astype(jnp.bfloat16)
    low, high = resize(x, (11, 8)), resize(x.astype(jnp.float32), (11, 8))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), high, rtol=2**-7, atol=2**-7)


def test_only_the_cpu_picks_lines():
    traced = jax.jit(jax.grad(lambda x: (resize(x, (12, 16)) ** 2).sum())).trace(random(2, 3, 4, 5))
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "dot_general" in text and "gather" not in text and "scatter" not in text
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "gather" in text and "dot_general" not in text and "scatter" not in text


def test_the_matrix_product_equals_the_picked_lines():
    x, matrix = random(2, 5, 3, 4), weights(5, 11)
    np.testing.assert_allclose(_matrix_product(1, matrix, x), _picked_sum(1, matrix, x), rtol=1e-6, atol=1e-6)
    dy = random(2, 11, 3, 4)
    np.testing.assert_allclose(_matrix_product(1, matrix.T, dy), _picked_sum(1, matrix.T, dy), rtol=1e-5, atol=1e-5)


def test_doubling_is_nearest_sampling_of_any_size():
    for height in (1, 2, 3, 6, 13):
        for width in (height, 15 - height):
            small = -(-height // 2), -(-width // 2)
            x = jnp.arange(2.0 * small[0] * small[1]).reshape(1, *small, 2)
            rows = [i * small[0] // height for i in range(height)]
            columns = [j * small[1] // width for j in range(width)]
            np.testing.assert_array_equal(double(x, (height, width)), np.asarray(x)[:, rows][:, :, columns])
