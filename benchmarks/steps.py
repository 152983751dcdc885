"""Training and inference steps to time, on random images without the input pipeline."""

import time

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from experiments.run import sharding
from experiments.run.state import Variables
from experiments.run.step import compile_step, make_train_step
from experiments.run.trainer import initialise_run
from experiments.tasks.base import Arrays
from experiments.tasks.registry import make_task

OBJECTS = 8  # per image


def make_batch(needs: tuple[str, ...], size: int, data: ConfigDict, classes: int) -> dict[str, np.ndarray]:
    """Return a batch of noise with a label, or with OBJECTS random boxes per image, and masks or proposals if needed."""
    rng = np.random.default_rng(0)
    height, width = data.image_size
    batch = {
        "image": rng.integers(0, 256, (size, height, width, 3), np.uint8),
        "example_mask": np.ones(size, bool),
        "original_size": np.tile(np.array(data.image_size, np.int32), (size, 1)),
        "to_original": np.tile(np.eye(2, 3, dtype=np.float32), (size, 1, 1)),
    }
    if "label" in needs:
        return batch | {"label": rng.integers(0, classes, (size, height, width)).astype(np.uint8)}

    def draw_boxes(count: int) -> np.ndarray:
        corners = np.sort(rng.uniform(0, 1, (2, size, count, 2)), axis=0) * data.image_size
        return np.concatenate([*corners], -1).astype(np.float32)

    shape = (size, data.max_boxes)
    boxes = draw_boxes(data.max_boxes)
    valid = np.broadcast_to(np.arange(data.max_boxes) < OBJECTS, shape)
    if "masks" in needs:
        batch["masks"] = rng.integers(0, 2, (*shape, *data.mask_size), np.uint8) * valid[..., None, None]
    if "proposals" in needs:
        batch["proposals"] = draw_boxes(data.max_proposals)
        batch["proposal_mask"] = np.ones((size, data.max_proposals), bool)
    return batch | {
        "boxes": boxes * valid[..., None],
        "classes": (rng.integers(0, classes, shape) * valid).astype(np.int32),
        "valid": valid,
        "crowd": np.zeros(shape, bool),
        "difficult": np.zeros(shape, bool),
        "boxes_lost": np.zeros(size, np.int32),
    }


class Step:
    """The compiled training or inference step of a config, on a batch of noise.

    `variables` are those of the network in inference, random ones by default. Raise UserError for the training of a task without
    steps.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        batch_size: int,
        classes: int,
        inference: bool,
        variables: Variables | None = None,
    ):
        mesh, class_names = sharding.make_mesh(config.mesh), tuple(map(str, range(classes)))
        task = make_task(config, class_names)
        if task.solves and not inference:
            raise UserError(f"config.task.name={config.task.name!r} has no training steps; use --inference")
        architecture, state, optimizer = initialise_run(config, mesh, class_names)
        self._batch = sharding.put_batch(make_batch(task.needs, batch_size, config.data, classes), mesh)
        self.parameters = sum(value.size for value in state.params.values())

        def predict(variables: Variables, batch: Arrays) -> tuple[Variables, Arrays]:
            outputs = task.apply(architecture.merge(variables), batch, train=False, rngs=None)
            return variables, task.predict(outputs, batch)

        began = time.perf_counter()
        if inference:
            own = architecture.lasting(state.params | state.rest) if variables is None else variables
            self._key, self._state = (), jax.device_put(own, sharding.tree_shardings(own, mesh))
            self.compiled = jax.jit(predict, donate_argnums=0).lower(self._state, self._batch).compile()
        else:
            self._key, self._state = (jax.random.key(config.seed.init),), state
            step = make_train_step(config, task, architecture, optimizer)
            self.compiled = compile_step(step, state, self._batch, *self._key)
        self.compile_seconds = time.perf_counter() - began

    def run(self) -> float:
        """Run one step. Return its seconds."""
        began = time.perf_counter()
        self._state, results = self.compiled(self._state, self._batch, *self._key)
        jax.block_until_ready((self._state, results))
        return time.perf_counter() - began
