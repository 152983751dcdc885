import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import layers
from tests.models.drawn import put


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@nnx.jit(static_argnames="train")
def apply(norm, x, train):
    return norm(x, train=train)


def make_norm(name):
    norm = layers.norm(name, 4, momentum=0.75, epsilon=1e-3, dtype="float32")
    arrays = dict(scale=np.arange(1.0, 5.0), bias=np.arange(4.0), mean=np.full(4, 0.5), var=np.full(4, 2.0))
    for field, array in arrays.items():
        put(getattr(norm, field), array)
    return norm


def test_batch_norm_uses_and_stores_batch_statistics_in_training():
    norm, x = make_norm("batch"), 3 * random(2, 3, 5, 4) + 1
    y = apply(norm, x, train=True)
    flat = np.asarray(x, np.float64).reshape(-1, 4)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3) * np.arange(1, 5) + np.arange(4)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(norm.mean[...], 0.75 * 0.5 + 0.25 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.75 * 2.0 + 0.25 * flat.var(0), rtol=1e-5)


def test_batch_norm_gradient_equals_the_plain_formula():
    norm, x, weights = make_norm("batch"), 3 * random(2, 3, 5, 4) + 1, random(2, 3, 5, 4)[::-1] ** 2
    graphdef, params, rest = nnx.split(norm, nnx.Param, ...)

    def ours(x, params):
        return (nnx.merge(graphdef, params, rest, copy=True)(x, train=True) * weights).sum()

    def plain(x, params):
        normalised = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-3)
        return ((normalised * params["scale"][...] + params["bias"][...]) * weights).sum()

    got, expected = (jax.jit(jax.grad(loss, (0, 1)))(x, params) for loss in (ours, plain))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 30.0, -1000.0])
def test_batch_norm_variance_is_accurate_for_a_large_mean(mean):
    """The variance is computed from deviations from a rough mean.

    A one-pass variance of the values themselves has an error of 100 % at a mean of 1000.
    """
    norm = layers.norm("batch", 4, momentum=0.0, epsilon=0.0, dtype="float32")
    x = mean + random(2, 20, 12, 4)
    y = apply(norm, x, train=True)
    flat = x.astype(np.float64).reshape(-1, 4)
    np.testing.assert_allclose(norm.var[...], flat.var(0), rtol=1e-5)
    np.testing.assert_allclose(norm.mean[...], flat.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(y, (x - flat.mean(0)) / flat.std(0), atol=1e-5 + 3e-7 * abs(mean))


def test_batch_norm_accepts_arrays_without_spatial_axes():
    norm = layers.norm("batch", 4, momentum=0.0, epsilon=0.0, dtype="float32")
    x = random(32, 4)
    np.testing.assert_allclose(apply(norm, x, train=True), (x - x.mean(0)) / x.std(0), atol=1e-5)


def test_frozen_batch_norm_has_no_parameters_and_does_not_change():
    norm = make_norm("frozen")
    assert not nnx.to_flat_state(nnx.state(norm, nnx.Param)) and len(nnx.to_flat_state(nnx.state(norm))) == 4
    x = random(2, 3, 5, 4)
    for train in (False, True):
        expected = (x - 0.5) / np.sqrt(2.001) * np.arange(1, 5) + np.arange(4)
        np.testing.assert_allclose(apply(norm, x, train=train), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], np.full(4, 0.5))


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_uses_running_statistics_in_evaluation_or_if_frozen(frozen):
    norm, x = make_norm("batch"), random(2, 3, 5, 4)
    norm.frozen = frozen
    y = apply(norm, x, train=frozen)
    np.testing.assert_allclose(y, (x - 0.5) / np.sqrt(2.001) * np.arange(1, 5) + np.arange(4), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], np.full(4, 0.5))
    np.testing.assert_array_equal(norm.var[...], np.full(4, 2.0))


def test_batch_norm_keeps_float32_statistics_in_bfloat16():
    norm = layers.norm("batch", 1, momentum=0.0, epsilon=1e-3, dtype="bfloat16")
    y = apply(norm, (1 + random(4, 32, 32, 1)).astype(jnp.bfloat16), train=True)
    assert y.dtype == jnp.bfloat16 and norm.mean[...].dtype == norm.var[...].dtype == jnp.float32
    assert abs(np.asarray(y, np.float32).mean()) < 1e-2


def test_group_norm_normalises_each_example_separately():
    norm = layers.norm("group", 48, momentum=0.9, epsilon=1e-5, dtype="float32")
    assert norm.groups == 24  # the largest divisor up to 32
    x = random(3, 4, 5, 48)
    y = np.asarray(apply(norm, x, train=True))
    groups = np.asarray(x, np.float64).reshape(3, 20, 24, 2)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    np.testing.assert_allclose(y, ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(apply(norm, x[1:2], train=False), y[1:2], rtol=1e-5, atol=1e-6)
    assert not jax.tree.leaves(nnx.state(norm, nnx.BatchStat))


def test_relu6_is_constant_outside_its_range():
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(layers.relu6)))(np.float32([-1, 2, 7]))
    np.testing.assert_array_equal(values, [0, 2, 6])
    np.testing.assert_array_equal(gradients, [0, 1, 0])


@pytest.mark.parametrize("shape", [(3, 3, 16, 32), (3, 3, 1, 64), (1, 1, 50, 7)])
def test_he_normal_variance_is_two_over_the_fan_in(shape):
    kernel = layers.he_normal(jax.random.key(0), shape)
    assert kernel.shape == shape and kernel.dtype == jnp.float32
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / np.prod(shape[:-1])), rtol=0.15)


def test_conv_equals_lax_with_bias_and_dtype():
    conv = layers.Conv(6, 4, 3, stride=2, groups=2, bias=True, dtype="bfloat16", rngs=nnx.Rngs(0))
    put(conv.bias, np.arange(4.0))
    x = random(2, 5, 4, 6)
    form = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)
    reference = jax.jit(lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", **form))
    y, expected = nnx.jit(lambda conv, x: conv(x))(conv, x), np.asarray(reference(x, conv.kernel[...]))
    assert y.dtype == jnp.bfloat16 and conv.kernel[...].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(y, np.float32), expected + np.arange(4), rtol=0.02, atol=0.05)
