"""Two images that a detector of three classes overfits."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from experiments.run import state as states
from experiments.tasks import registry
from experiments.tasks.base import total_loss
from tests.experiments.tasks.scenes import CLASSES, make_batch

SIDE, GRID = 64, (14, 14)  # sizes of an image and of a mask
OBJECTS = [  # small and large: (box, class)
    [((4, 6, 30, 34), 0), ((30, 32, 62, 62), 1), ((8, 44, 21, 57), 2)],
    [((2, 8, 44, 50), 2), ((47, 20, 60, 33), 1)],
]


def draw_batch() -> dict[str, np.ndarray]:
    """Draw rectangles in the colour of their class on noise. They fill their boxes."""
    batch = make_batch(*([(box, index, "") for box, index in image] for image in OBJECTS), size=(SIDE, SIDE))
    batch = {name: rows[: len(OBJECTS)] for name, rows in batch.items()}
    batch["image"] = np.random.default_rng(0).integers(100, 140, batch["image"].shape).astype(np.uint8)
    for image, row in zip(batch["image"], OBJECTS, strict=True):
        for (top, left, bottom, right), index in row:
            image[top:bottom, left:right, index] = 255
    return batch | {"masks": np.ones((*batch["valid"].shape, *GRID), np.uint8)}


def overfit(config: ConfigDict, steps: int) -> SimpleNamespace:
    """Train a config's detector. Return the task, model, batch, losses of the steps, and gradients of the first step."""
    task, batch = registry.make_task(config, CLASSES), jax.tree.map(jnp.asarray, draw_batch())
    architecture, _, trained = states.describe(config, len(CLASSES))
    variables = states.initialise(config, len(CLASSES), seed=0)
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, rest, state, key):
        def loss(params):
            model = architecture.merge(params | rest)
            outputs = task.apply(model, batch, train=True, rngs=nnx.Rngs(key))
            after = states.variables_of(model)
            return total_loss(task.loss(outputs, batch)[0]), {name: after[name] for name in rest}

        (value, after), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), after, state, value, gradients

    params = {name: value for name, value in variables.items() if name in trained}
    rest = {name: value for name, value in variables.items() if name not in trained}
    state, losses, first = jax.jit(optimizer.init)(params), [], None
    for number in range(steps):
        params, rest, state, value, gradients = step(params, rest, state, jax.random.key(number))
        losses.append(float(value))
        first = jax.tree.map(np.asarray, gradients) if first is None else first
    return SimpleNamespace(task=task, model=architecture.merge(params | rest), batch=batch, losses=losses, first=first)
