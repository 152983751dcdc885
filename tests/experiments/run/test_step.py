"""The training step of a model that is small enough to reason about. test_configs runs the steps of the real models."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, segmenters
from errors import UserError
from experiments.results.registry import make_results
from experiments.run import sharding
from experiments.run import state as states
from experiments.run.inference import Inference
from experiments.run.optim import make_optimizer
from experiments.run.step import compile_step, make_train_step
from experiments.tasks.base import Mean
from experiments.tasks.registry import make_task
from models import layers, registry

CLASSES = ("a", "b", "c")
KEY = jax.random.key(0)


class Tiny(registry.Model):
    """Two convolutions with a normalisation between them and dropout before the second."""

    produces = "pixel logits"

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


def make(norm="group", dropout=0.0, mesh=(1, -1, 1), task=None, remat=False, **optim):
    config = common.get_config()
    config.mesh, config.train.remat = mesh, remat
    config.model.update(name="tiny", norm=norm, dropout=dropout, dtype="float32")
    segmenters.use_pixel_losses(config)
    config.optim.update(dict(name="sgd", lr=0.1, schedule="constant") | optim)
    task = task or make_task(config, CLASSES)
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
    compiled, logs = compile_step(step, state, batch, KEY), {}
    for _ in range(steps):
        state, logs = compiled(state, batch, KEY)
    return state, logs


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_large_batch(parts):
    whole, logs = run(norm="group")
    split, split_logs = run(norm="group", accumulate=parts)
    assert float(logs["loss"]) == pytest.approx(float(split_logs["loss"]), rel=1e-5)
    for name, value in whole.params.items():
        np.testing.assert_allclose(split.params[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("parts", [1, 2])
def test_recomputed_activations_do_not_change_the_step(parts):
    """The gradients, the dropout and the batch statistics are the same."""
    kept, logs = run(norm="batch", dropout=0.5, accumulate=parts)
    again, again_logs = run(norm="batch", dropout=0.5, accumulate=parts, remat=True)
    assert float(again_logs["loss"]) == pytest.approx(float(logs["loss"]), rel=1e-6)
    for name, value in (kept.params | kept.rest).items():
        np.testing.assert_allclose((again.params | again.rest)[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


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
    compiled = compile_step(step, state, batch, KEY)
    expected = {name: np.array(value) for name, value in (state.params | state.rest).items()}
    for index in range(steps):
        state, _ = compiled(state, batch, KEY)
        rate = min(decay, (1 + index) / (10 + index))
        current = state.params | state.rest
        expected = {name: rate * value + (1 - rate) * np.array(current[name]) for name, value in expected.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(state.ema[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    assert states.evaluation_weights(state, None) is state.ema


def test_a_batch_without_labels_changes_no_parameter():
    batch = make_batch() | {"label": np.full((8, 8, 8), 255, np.uint8)}
    _, before, _ = make()
    after, logs = run(batch=batch)
    assert float(logs["loss"]) == 0.0
    for name, value in before.params.items():
        np.testing.assert_array_equal(after.params[name], value)


def test_dropout_depends_on_step_and_key_and_is_reproducible():
    (first, _), (again, _) = run(dropout=0.5, steps=2), run(dropout=0.5, steps=2)
    for name, value in first.params.items():
        np.testing.assert_array_equal(again.params[name], value)
    step, state, mesh = make(dropout=0.5)
    batch = sharding.put_batch(make_batch(), mesh)
    loss = jax.jit(lambda state, key: step(state, batch, key)[1]["loss"])
    assert float(loss(state, KEY)) != float(loss(dataclasses.replace(state, step=jnp.int32(1)), KEY))
    assert float(loss(state, KEY)) != float(loss(state, jax.random.key(1)))


def test_a_pattern_that_freezes_nothing_is_an_error():
    with pytest.raises(UserError, match="optim.freeze"):
        make(freeze=("encoder/",))


def test_freezing_everything_is_an_error():
    with pytest.raises(UserError, match="no parameter to train"):
        make(freeze=(".*",))


class ManyTerms:
    """Terms with different denominators.

    The denominators are pixels, pixels with a confident prediction, images with class 2, and nothing.

    Most parts of `make_batch` have no pixel of class 2, so their third weight is 0.
    """

    needs = ("label",)

    def __init__(self):
        self.calls = 0

    def apply(self, model, batch, *, train, rngs):
        self.calls += 1
        return {"logits": model(batch["image"].astype(jnp.float32) / 255, train=train, rngs=rngs)}

    def loss(self, outputs, batch):
        log_p = jax.nn.log_softmax(outputs["logits"])
        known = batch["label"] != 255
        truth = jax.nn.one_hot(batch["label"], 3)
        cross_entropy = -jnp.sum(truth * log_p, -1)
        sure = known & (jnp.max(log_p, -1) > np.log(0.4))
        rare = jnp.any(batch["label"] == 2, (1, 2))
        terms = {
            "pixels": Mean(jnp.sum(cross_entropy), jnp.sum(known, dtype=jnp.float32)),
            "sure": Mean(jnp.sum(jnp.where(sure, log_p[..., 0] ** 2, 0.0)), jnp.sum(sure, dtype=jnp.float32), 0.3),
            "rare": Mean(
                jnp.sum(jnp.where(rare[:, None, None], log_p[..., 2], 0.0) ** 2), jnp.sum(rare, dtype=jnp.float32), 2.0
            ),
            "floored": Mean(jnp.sum(outputs["logits"] ** 2) / 100, jnp.float32(0.0), 0.5, floor=1.0),
        }
        return terms, {"brightness": Mean(jnp.sum(batch["image"].astype(jnp.float32)), jnp.float32(len(known)))}

    def predict(self, outputs, batch):
        return outputs


def make_rare_batch():
    """Make a batch in which only part 0 of four has pixels of class 2."""
    batch = make_batch()
    rows = np.arange(8)[:, None, None] % 4 > 0
    return batch | {"label": np.where(rows & (batch["label"] == 2), 1, batch["label"]).astype(np.uint8)}


def gradient_of_the_whole(batch):
    """Return the loss of ManyTerms and its gradient with constant weights, in one piece and without the step."""
    _, state, _ = make()
    config = common.get_config()
    config.model.update(name="tiny", norm="group", dropout=0.0, dtype="float32")
    architecture, _, _ = states.describe(config, len(CLASSES))
    task = ManyTerms()

    def loss(params, constants):
        outputs = task.apply(architecture.merge(params | state.rest), batch, train=True, rngs=nnx.Rngs(0))
        terms, _ = task.loss(outputs, batch)
        weights = {name: term.weight for name, term in terms.items()} if constants is None else constants
        divisors = {name: max(weights[name], term.floor) for name, term in terms.items()}
        return sum(term.factor * term.total / divisors[name] for name, term in terms.items()), weights

    value, weights = loss(state.params, None)
    return value, jax.grad(lambda params: loss(params, weights)[0])(state.params)


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_every_term_has_its_own_denominator_over_the_whole_batch(parts):
    batch = make_rare_batch()
    expected, gradient = gradient_of_the_whole(batch)
    step, state, mesh = make(task=ManyTerms(), accumulate=parts, lr=1.0, momentum=0.0)
    before = {name: np.array(value) for name, value in state.params.items()}
    after, logs = jax.jit(step)(state, sharding.put_batch(batch, mesh), KEY)
    assert float(logs["loss"]) == pytest.approx(float(expected), rel=1e-5)
    for name, value in gradient.items():  # the gradient of the bias before the norm is only rounding
        np.testing.assert_allclose(before[name] - after.params[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    assert float(logs["brightness"]) == pytest.approx(batch["image"].sum() / 8, rel=1e-5)
    assert {"pixels", "sure", "rare", "floored", "brightness", "loss", "grad_norm"} == logs.keys()


def test_pass_that_weights_the_parts_does_not_run_the_network():
    """If no weight depends on the outputs, four parts have as many convolutions as one."""

    def convolutions(parts):
        step, state, mesh = make(accumulate=parts)
        compiled = compile_step(step, state, sharding.put_batch(make_batch(), mesh), KEY)
        return len(re.findall(r" convolution\(", compiled.as_text()))

    assert convolutions(4) == convolutions(1) > 2


def test_evaluation_calls_the_network_once():
    config = common.get_config()
    config.data.image_size = (32, 32)
    config.data.canvases = ((32, 32),)
    config.model.update(name="tiny", norm="group", dropout=0.0, dtype="float32")
    architecture, shapes, _ = states.describe(config, len(CLASSES))
    task = ManyTerms()
    mesh = sharding.make_mesh(config.mesh)
    inference = Inference(config, task, make_results(("label",), config.eval, CLASSES), architecture, mesh)
    inference.check(shapes, (32, 32))
    assert task.calls == 1


def test_a_task_that_cannot_read_a_models_outputs_is_refused():
    config = common.get_config()
    segmenters.use_pixel_losses(config)
    config.model.name = "ssd"
    with pytest.raises(UserError, match="'segmentation' reads pixel logits, and .*'ssd' produces default boxes"):
        make_task(config, CLASSES)
