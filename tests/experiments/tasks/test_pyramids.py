"""Detectors on a pyramid, of their debug configs: every parameter learns, and two pictures are overfitted."""

import importlib
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.run import state as states
from experiments.tasks import registry
from experiments.tasks.base import total_loss
from tests.experiments.tasks.test_ssd import CLASSES, iou, make_batch

pytestmark = pytest.mark.slow
OBJECTS = [  # small and large, of two images
    [((4, 6, 30, 34), 0), ((30, 32, 62, 62), 1), ((8, 44, 21, 57), 2)],
    [((2, 8, 44, 50), 2), ((47, 20, 60, 33), 1)],
]


@pytest.fixture(scope="module", params=["retinanet_shapes", "fcos_shapes"])
def overfitted(request):
    """(task, model, batch, losses of the steps, gradients of the first)."""
    config = importlib.import_module(f"configs.{request.param}").get_config("debug")
    config.model.backbone.width = 32
    config.model.norm = "none"  # at stride 64 there is one pixel: groups of one value would be 0
    task = registry.make_task(config, CLASSES)
    batch = make_batch(*([(box, index, "") for box, index in image] for image in OBJECTS))
    batch = {name: rows[:2] for name, rows in batch.items()}
    batch["image"] = np.random.default_rng(0).integers(100, 140, (2, 64, 64, 3)).astype(np.uint8)
    batch["original_size"] = np.full((2, 2), 64, np.int32)
    batch["to_original"] = np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1))
    for image, row in zip(batch["image"], OBJECTS, strict=True):
        for (top, left, bottom, right), index in row:
            image[top:bottom, left:right, index] = 255
    architecture, _, trained = states.describe(config, len(CLASSES))
    variables = states.initialise(config, len(CLASSES), seed=0)
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, rest, state):
        def loss(params):
            model = architecture.merge(params | rest)
            outputs = task.apply(model, batch, train=True, rngs=None)
            after = states.variables_of(model)
            return total_loss(task.loss(outputs, batch)[0]), {name: after[name] for name in rest}

        (value, after), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), after, state, value, gradients

    params = {name: value for name, value in variables.items() if name in trained}
    rest = {name: value for name, value in variables.items() if name not in trained}
    state, losses, first = optimizer.init(params), [], None
    for _ in range(120):
        params, rest, state, value, gradients = step(params, rest, state)
        losses.append(float(value))
        first = gradients if first is None else first
    return SimpleNamespace(task=task, model=architecture.merge(params | rest), batch=batch, losses=losses, first=first)


def test_every_parameter_is_learned(overfitted):
    for name, gradient in overfitted.first.items():
        assert np.isfinite(gradient).all() and np.any(gradient != 0), name


def test_two_pictures_are_overfitted(overfitted):
    assert overfitted.losses[-1] < 0.3 * overfitted.losses[0]
    task, batch = overfitted.task, overfitted.batch
    outputs = nnx.jit(lambda model: task.apply(model, batch, train=False, rngs=None))(overfitted.model)
    prediction = jax.tree.map(np.asarray, jax.jit(task.predict)(outputs, batch))
    for row, objects in enumerate(OBJECTS):
        classes, boxes = (prediction[name][row][: len(objects)] for name in ("classes", "boxes"))  # the best
        assert prediction["scores"][row][len(objects) - 1] > 0.4
        assert sorted(classes.tolist()) == sorted(index for _, index in objects)
        for box, index in objects:
            assert max(iou(found, box) for found in boxes[classes == index]) > 0.7
