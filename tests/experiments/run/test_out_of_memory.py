"""Allocations that really fail, and the errors of the accelerators, become one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from errors import UserError
from experiments.command_line import read_experiment
from experiments.run import out_of_memory
from experiments.run.out_of_memory import explain_evaluation, explain_training, read_size

GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes."
TPU = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm."


@pytest.fixture
def config():
    return read_experiment("configs/unet_shapes.py", [])


def test_failed_allocation_names_the_fields_that_lower_it(config):
    step = jax.jit(lambda start: jnp.arange(2.0**42, dtype=jnp.float32) + start).lower(1.0).compile()
    with pytest.raises(UserError) as caught, explain_training(config, lambda: [None, step]):
        jax.block_until_ready(step(1.0))
    assert str(caught.value) == (
        "out of memory in training: 17.6 TB could not be allocated; the compiled step needs 17.6 TB on a device; "
        "lower config.train.batch_size=16 or config.data.image_size=(64, 64), raise config.optim.accumulate=1, set "
        "config.train.remat=True or set config.model.dtype=bfloat16"
    )


def test_failed_host_allocation_names_the_data_on_the_host(config):
    with pytest.raises(UserError) as caught, explain_training(config):
        np.zeros(2**45)
    assert str(caught.value) == (
        "out of memory on the host in training: 281.5 TB could not be allocated; lower config.data.prefetch=8, "
        "config.data.num_threads=2 or config.train.batch_size=16"
    )


def test_evaluation_names_its_own_fields(config, monkeypatch):
    monkeypatch.setattr(out_of_memory, "find_capacity", lambda: 16e9)
    config.data.canvases, config.eval.scales = ((64, 96),), (1.0, 2.0)
    with pytest.raises(UserError) as caught, explain_evaluation(config):
        raise jax.errors.JaxRuntimeError(GPU)
    assert str(caught.value) == (
        "out of memory in evaluation: 34.4 GB could not be allocated on a device with 16.0 GB; lower "
        f"config.eval.batch_size={config.eval.batch_size}, config.data.canvases=((64, 96),) or config.eval.scales=(1.0, 2.0)"
    )


def test_fields_that_cannot_help_are_not_named(config):
    config.train.update(batch_size=1, remat=True)
    config.model.dtype = "bfloat16"
    with (
        pytest.raises(UserError, match=r"allocated; lower config\.data\.image_size=\(64, 64\)$"),
        explain_training(config),
    ):
        raise jax.errors.JaxRuntimeError(GPU)


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("INTERNAL: broken"), ValueError("Out of memory"), UserError("a field")]
)
def test_other_errors_are_not_changed(config, error):
    with pytest.raises(type(error)) as caught, explain_training(config):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (GPU, 2.0**35),
        (TPU, 20.5 * 2**30),
        ("Out of memory allocating 17592186044416 bytes.", 2.0**44),
        ("Attempting to allocate 8.00G. That was not possible.", 2.0**33),
        ("failed to allocate 1.5GiB (1610612736 bytes)", 1.5 * 2**30),
        ("Unable to allocate 256. TiB for an array with shape (35184372088832,)", 2.0**48),
        ("out of memory", None),
    ],
)
def test_sizes_are_read_from_the_words_of_every_backend(text, size):
    assert read_size(text) == size
