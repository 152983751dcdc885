"""Times the training step of a config, or its inference, on random images, without the input pipeline.

    python -m benchmarks.train_step --config=configs/unet_pets.py --batch_size=16

prints one JSON line: parameters, images_per_second, step_ms (the median), compile_seconds, gflop_per_step and
memory_mb (both XLA's own count). With --inference it is the step that evaluation and prediction run: the network, and the
suppression of a detector. Fields of the config are flags, such as the size of the images and the type of the activations:

    python -m benchmarks.train_step --config=configs/faster_rcnn_r50_fpn_coco.py --batch_size=2 --classes=80 \\
        --config.data.image_size='(800,1344)' --config.model.dtype=bfloat16
"""

import json
import sys
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from errors import UserError
from experiments.run import sharding
from experiments.run.evidence import flops
from experiments.run.state import Variables
from experiments.run.step import compile_step, make_train_step
from experiments.run.trainer import initialise_run
from experiments.tasks.base import Arrays
from experiments.tasks.registry import make_task

CONFIG = config_flags.DEFINE_config_file("config", "configs/unet_pets.py", "The experiment.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Examples of a step, over all devices.")
CLASSES = flags.DEFINE_integer("classes", 3, "Classes of the random ground truth.")
OBJECTS = 8  # in an image
INFERENCE = flags.DEFINE_bool("inference", False, "Time the step that predicts instead of the one that trains.")
STEPS = flags.DEFINE_integer("steps", 12, "Timed steps, 10 at least; the median counts.", lower_bound=10)


def make_batch(needs: tuple[str, ...], size: int, data: ConfigDict, classes: int) -> dict[str, np.ndarray]:
    """Noise with what a task needs: a label, or OBJECTS random boxes per image, with masks or proposals where it needs them."""
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


def memory(compiled: jax.stages.Compiled) -> dict[str, float]:
    """The megabytes of one call on one device: its arguments, those of them that its results take over, and the rest."""
    found = compiled.memory_analysis()
    parts = {
        "arguments": found.argument_size_in_bytes,
        "reused": found.alias_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "between": found.temp_size_in_bytes,
    }
    return {name: round(size / 1e6, 1) for name, size in parts.items()}


class Step:
    """The compiled training step of a config, or its inference, on a batch of noise.

    `variables` are those that the network predicts with, random ones if not given. Raises UserError for the training of a
    task without steps.
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
            raise UserError(f"config.task.name={config.task.name!r} has no steps of training; give --inference")
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
        """Runs one step. Returns its seconds."""
        began = time.perf_counter()
        self._state, results = self.compiled(self._state, self._batch, *self._key)
        jax.block_until_ready((self._state, results))
        return time.perf_counter() - began


def main(_) -> None:
    config = CONFIG.value
    try:
        step = Step(config, batch_size=BATCH_SIZE.value, classes=CLASSES.value, inference=INFERENCE.value)
    except UserError as error:
        sys.exit(f"error: {error}")
    seconds = [step.run() for _ in range(STEPS.value + 2)]
    median = float(np.median(seconds[2:]))  # the first two touch memory for the first time
    count = flops(step.compiled)
    result = {
        "model": config.model.name,
        "step": "inference" if INFERENCE.value else "training",
        "platform": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "parameters": step.parameters,
        "batch_size": BATCH_SIZE.value,
        "image_size": tuple(config.data.image_size),
        "images_per_second": round(BATCH_SIZE.value / median, 2),
        "step_ms": round(1e3 * median, 1),
        "compile_seconds": round(step.compile_seconds, 2),
        "gflop_per_step": None if count is None else round(count / 1e9, 2),
        "memory_mb": memory(step.compiled),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
