"""The training step on a model small enough to reason about; the real models' steps are run by test_configs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, segmenters
from errors import UserError
from experiments.run import sharding
from experiments.run import state as states
from experiments.run.optim import make_optimizer
from experiments.run.step import compile_step, make_train_step
from experiments.tasks.registry import make_task
from models import layers, registry

CLASSES = ("a", "b", "c")


class Tiny(nnx.Module):
    """Two convolutions, a normalisation between them, dropout before the second."""

    def __init__(self, *, num_classes, norm, dropout, dtype, rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = layers.norm(norm, 8, epsilon=1e-3, momentum=0.9, dtype=dtype)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Conv(8, num_classes, (3, 3), rngs=rngs)

    def __call__(self, images, *, train, rngs=None):
        x = nnx.relu(self.norm(self.stem(images), train=train))
        return self.head(self.dropout(x, deterministic=not train, rngs=rngs))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "tiny", f"{__name__}:Tiny")


def make(norm="group", dropout=0.0, mesh=(1, -1, 1), **optim):
    config = common.get_config()
    config.mesh = mesh
    config.model.update(name="tiny", norm=norm, dropout=dropout, dtype="float32")
    segmenters.use_pixel_losses(config)
    config.optim.update(dict(name="sgd", lr=0.1, schedule="constant") | optim)
    task = make_task(config, CLASSES)
    mesh = sharding.make_mesh(config.mesh)
    architecture, _, trained = states.describe(config, len(CLASSES))
    variables = states.initialise(config, len(CLASSES), seed=0)
    optimizer = make_optimizer(config.optim, config.train.steps, trained)
    state = states.create(variables, trained, optimizer, variables if config.optim.ema else {})
    state = jax.device_put(state, sharding.tree_shardings(state, mesh))
    return make_train_step(config, task, architecture, optimizer), state, mesh


def make_batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (size, 8, 8)).astype(np.uint8)
    label[: size // 2][rng.random((size // 2, 8, 8)) < 0.6] = 255  # micro-batches of unequal weight
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 3), np.uint8),
        "label": label,
        "example_mask": np.ones(size, bool),
    }


def run(steps=3, batch=None, **fields):
    step, state, mesh = make(**fields)
    batch = sharding.put_batch(batch or make_batch(), mesh)
    compiled = compile_step(step, state, batch)
    for _ in range(steps):
        state, logs = compiled(state, batch)
    return state, logs


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_large_batch(parts):
    whole, logs = run(norm="group")
    split, split_logs = run(norm="group", accumulate=parts)
    assert float(logs["loss"]) == pytest.approx(float(split_logs["loss"]), rel=1e-5)
    for name, value in whole.params.items():
        np.testing.assert_allclose(split.params[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_frozen_paths_keep_parameters_and_batch_statistics():
    _, before, _ = make(norm="batch")
    after, _ = run(norm="batch", freeze=("stem/", "norm/"), weight_decay=0.1)
    start = before.params | before.rest
    assert set(after.params) == {"head/kernel", "head/bias"}
    for name, value in after.rest.items():
        np.testing.assert_array_equal(value, start[name], err_msg=name)
    assert not np.array_equal(after.params["head/kernel"], start["head/kernel"])


def test_batch_statistics_move_when_not_frozen():
    _, before, _ = make(norm="batch")
    after, _ = run(norm="batch")
    assert not np.array_equal(after.rest["norm/mean"], before.rest["norm/mean"])


def test_ema_follows_parameters_and_statistics():
    decay, steps = 0.5, 4
    step, state, mesh = make(norm="batch", ema=decay)
    batch = sharding.put_batch(make_batch(), mesh)
    compiled = compile_step(step, state, batch)
    expected = {name: np.array(value) for name, value in (state.params | state.rest).items()}
    for index in range(steps):
        state, _ = compiled(state, batch)
        rate = min(decay, (1 + index) / (10 + index))
        current = state.params | state.rest
        expected = {name: rate * value + (1 - rate) * np.array(current[name]) for name, value in expected.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(state.ema[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert states.evaluated(state, None) is state.ema


def test_a_batch_without_labels_changes_no_parameter():
    batch = make_batch() | {"label": np.full((8, 8, 8), 255, np.uint8)}
    _, before, _ = make()
    after, logs = run(batch=batch)
    assert float(logs["loss"]) == 0.0
    for name, value in before.params.items():
        np.testing.assert_array_equal(after.params[name], value)


def test_dropout_differs_by_step_and_repeats_by_seed():
    (first, _), (again, _) = run(dropout=0.5, steps=2), run(dropout=0.5, steps=2)
    for name, value in first.params.items():
        np.testing.assert_array_equal(again.params[name], value)
    step, state, mesh = make(dropout=0.5)
    batch = sharding.put_batch(make_batch(), mesh)
    loss = jax.jit(lambda state: step(state, batch)[1]["loss"])
    assert float(loss(state)) != float(loss(dataclasses.replace(state, step=jnp.int32(1))))


def test_a_pattern_that_freezes_nothing_is_an_error():
    with pytest.raises(UserError, match="optim.freeze"):
        make(freeze=("encoder/",))


def test_freezing_everything_is_an_error():
    with pytest.raises(UserError, match="no parameter to train"):
        make(freeze=(".*",))
