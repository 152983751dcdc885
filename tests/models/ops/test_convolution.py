"""The CPU implementations equal the operations of lax in values and in both gradients.

Only the platform decides which implementation runs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.ops import convolution


def arrays(*shapes):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def conv(x, kernel, stride=1, padding="SAME", groups=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def assert_same(ours, reference, x, kernel):
    """Assert equal outputs, and equal gradients of both arguments for one random cotangent."""

    def value_and_gradients(function, x, kernel, dy):
        y, pullback = jax.vjp(function, x, kernel)
        return y, *pullback(dy)

    (dy,) = arrays(jax.eval_shape(reference, x, kernel).shape)
    both = jax.jit(lambda *inputs: [value_and_gradients(function, *inputs) for function in (ours, reference)])
    got, expected = jax.tree.map(np.asarray, both(x, kernel, dy))
    for name, a, b in zip(("y", "dx", "dkernel"), got, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, name
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), err_msg=name)


def test_pointwise_equals_a_1x1_convolution():
    assert_same(convolution.pointwise, conv, *arrays((2, 5, 3, 7), (1, 1, 7, 4)))


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding"),
    [
        ((6, 8), 3, 1, "SAME"),
        ((6, 8), 3, 2, "SAME"),
        ((7, 5), 3, 2, "SAME"),
        ((6, 7), 3, 2, ((1, 1), (1, 1))),
        ((7, 9), 5, 2, ((0, 3), (2, 1))),
        ((9, 8), 3, 3, "VALID"),
        ((8, 6), 2, 1, "SAME"),
        ((8, 7), 1, 2, "VALID"),  # the stride is longer than the kernel, so some pixels are never read
        ((5, 5), 2, 1, ((3, 0), (0, 4))),  # the padding is wider than the kernel
    ],
)
def test_depthwise_equals_a_grouped_convolution(shape, size, stride, padding):
    x, kernel = arrays((2, *shape, 3), (size, size, 1, 3))
    ours = partial(convolution.depthwise, stride=stride, padding=padding)
    assert_same(ours, partial(conv, stride=stride, padding=padding, groups=3), x, kernel)


@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding", "dilation"),
    [
        ((9, 8), 3, 1, "SAME", 2),
        ((5, 4), 3, 1, ((12, 12), (12, 12)), 12),  # only the middle tap reads the map
        ((9, 11), 3, 2, "SAME", 3),
        ((11, 12), 2, 3, "VALID", 4),
        ((13, 12), 5, 2, ((1, 3), (2, 0)), 2),
    ],
)
def test_dilated_depthwise_equals_a_grouped_convolution(shape, size, stride, padding, dilation):
    x, kernel = arrays((2, *shape, 3), (size, size, 1, 3))
    ours = partial(convolution.depthwise, stride=stride, padding=padding, dilation=dilation)
    theirs = partial(convolution.convolve, stride=stride, padding=padding, groups=3, dilation=dilation)
    assert_same(ours, theirs, x, kernel)


@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [
        ((3, 4), 3, 2),
        ((1, 5), 4, 2),
        ((3, 2), 5, 3),
        ((2, 3), 2, 3),
        ((4, 3), 3, 1),
        ((2, 2), 1, 2),
        ((2, 3), 9, 3),  # more than two blocks
        ((2, 1), 16, 8),  # the kernels of FCN have twice the stride
    ],
)
def test_transpose_equals_the_gradient_of_a_same_convolution(shape, size, stride):
    x, kernel = arrays((2, *shape, 3), (size, size, 3, 5))
    large = jax.ShapeDtypeStruct((2, shape[0] * stride, shape[1] * stride, 5), jnp.float32)

    def reference(x, kernel):
        down = partial(conv, kernel=kernel.swapaxes(2, 3), stride=stride)
        return jax.linear_transpose(lambda y: down(y), large)(x)[0]

    assert_same(partial(convolution.transpose, stride=stride), reference, x, kernel)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (4, 2), (2, 3), (8, 4)])
def test_transpose_places_every_pixel_as_keras_does(size, stride):
    x, kernel = arrays((1, 3, 4, 2), (size, size, 2, 3))
    height, width = 3 * stride, 4 * stride
    begin = max(size - stride, 0) // 2
    expected = np.zeros((1, height, width, 3))
    for top, left, i, j in np.ndindex(3, 4, size, size):
        row, column = top * stride + i - begin, left * stride + j - begin
        if 0 <= row < height and 0 <= column < width:
            expected[0, row, column] += x[0, top, left] @ kernel[i, j]
    got = jax.jit(partial(convolution.transpose, stride=stride))(x, kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


FUNCTIONS = {
    "pointwise": (convolution.pointwise, (1, 1, 4, 4)),
    "depthwise": (partial(convolution.depthwise, stride=2, padding="SAME"), (3, 3, 1, 4)),
    "transpose": (partial(convolution.transpose, stride=2), (3, 3, 4, 4)),
    "transpose in blocks": (partial(convolution.transpose, stride=2), (4, 4, 4, 4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bfloat16_inputs_are_summed_in_float32(name):
    function, shape = FUNCTIONS[name]
    x, kernel = arrays((2, 6, 6, 4), shape)
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)

    def gradients(x, kernel):
        y, pullback = jax.vjp(function, x, kernel)
        return y, *pullback(jnp.ones_like(y))

    @jax.jit
    def both(x, kernel):
        return gradients(x, kernel), gradients(x.astype(jnp.float32), kernel.astype(jnp.float32))

    for low, high in zip(*both(x, kernel), strict=True):
        assert low.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(low, np.float32), high, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_platforms_use_native_convolutions_only(name):
    function, shape = FUNCTIONS[name]
    x, kernel = arrays((2, 6, 6, 4), shape)
    traced = jax.jit(jax.grad(lambda x, kernel: function(x, kernel).sum(), argnums=(0, 1))).trace(x, kernel)
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text and "dot_general" not in text and "stablehlo.reduce" not in text
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" not in text  # the gradients of the sum do not need the forward pass


def test_examples_are_independent_under_vmap():
    x, kernel = arrays((3, 2, 4, 4, 2), (3, 3, 1, 2))
    function = partial(convolution.depthwise, stride=1, padding="SAME")
    together = jax.jit(jax.vmap(function, (0, None)))(x, kernel)
    np.testing.assert_allclose(np.asarray(together)[1], jax.jit(function)(x[1], kernel), rtol=1e-6, atol=1e-6)
