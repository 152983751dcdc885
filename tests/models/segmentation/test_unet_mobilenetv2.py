from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import registry
from tests.models.drawn import draw
from tests.models.segmentation.calls import pixels

FULL = dict(
    width=1.0, depth=1.0, variant="keras", norm="batch", momentum=0.99, decoder=(512, 256, 128, 64), dtype="float32"
)
TINY = FULL | dict(width=0.1, depth=0.1, decoder=(8, 8, 8, 8))


def build(num_classes=3, **fields):
    return registry.build("unet_mobilenetv2", rngs=nnx.Rngs(0), num_classes=num_classes, **fields)


def count(state):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def frozen():
    """Return a model whose encoder keeps its statistics."""
    model = draw(lambda: build(**TINY))
    for _, module in nnx.iter_modules(model.encoder):
        if hasattr(module, "frozen"):
            module.frozen = True
    return model


@partial(jax.jit, static_argnums=(0, 3))
def compiled(graphdef, state, images, train):
    model = nnx.merge(graphdef, state, copy=True)
    return model(images, train=train), nnx.state(model, nnx.BatchStat)


def forward(model, images, train):
    """Return the logits and the batch statistics after the call, without changing `model`."""
    return jax.tree.map(np.asarray, compiled(*nnx.split(model), images, train))


def test_parameter_count_equals_the_tutorial():
    model = nnx.eval_shape(lambda: build(**FULL))
    assert count(nnx.state(model)) == 6_504_227
    assert count(nnx.state(model.encoder)) == 1_841_984
    assert count(nnx.state(nnx.eval_shape(lambda: build(**FULL | dict(norm="group"))), nnx.BatchStat)) == 0


def test_logits_have_the_size_of_the_image():
    model = nnx.eval_shape(lambda: build(num_classes=5, **TINY))
    for size in ((97, 70), (1, 31)):
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        logits = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
        assert logits.shape == (2, *size, 5) and logits.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_parameters_and_logits_are_float32(dtype):
    model = nnx.eval_shape(lambda: build(**TINY | dict(dtype=dtype)))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    assert nnx.eval_shape(lambda model, images: model(images, train=True), model, images).dtype == jnp.float32


def test_examples_are_independent_in_evaluation_but_not_in_training(frozen):
    """In training the decoder normalises with the statistics of the batch."""
    images = pixels(4, 37, 32, 3)
    other = images * np.array([1, 0.5, 0.5, 0.5], np.float32)[:, None, None, None]
    for train in (False, True):
        same = np.allclose(forward(frozen, images, train)[0][0], forward(frozen, other, train)[0][0], atol=1e-5)
        assert same != train


def test_frozen_encoder_keeps_its_statistics(frozen):
    _, after = forward(frozen, pixels(4, 37, 32, 3), train=True)
    before = dict(nnx.to_flat_state(nnx.state(frozen, nnx.BatchStat)))
    for path, value in nnx.to_flat_state(after):
        assert np.array_equal(value[...], before[path][...]) == (path[0] == "encoder"), path
