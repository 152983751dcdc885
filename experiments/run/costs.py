"""The memory and the operations of a step, compiled from shapes alone."""

from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.run import sharding
from experiments.run import state as states
from experiments.run.inference import make_evaluation_step
from experiments.run.optim import make_optimizer
from experiments.run.state import Variables
from experiments.run.step import compile_step, make_train_step
from experiments.tasks.base import Task
from input_pipeline.batch import ALWAYS, Size, specify
from input_pipeline.truths import make_truth


def memory(compiled: jax.stages.Compiled) -> dict[str, float]:
    """Return the memory of one call on one device in megabytes, by kind.

    `reused` is the part of the arguments that the results take over.
    """
    found = compiled.memory_analysis()
    assert found is not None, "this backend does not report memory"
    parts = {
        "arguments": found.argument_size_in_bytes,
        "reused": found.alias_size_in_bytes,
        "results": found.output_size_in_bytes - found.alias_size_in_bytes,
        "between": found.temp_size_in_bytes,
        "code": found.generated_code_size_in_bytes,
    }
    return {name: round(size / 1e6, 1) for name, size in parts.items()}


def compile_training(config: ConfigDict, task: Task, num_classes: int, mesh: Mesh) -> jax.stages.Compiled:
    """Compile the training step of a config, without making variables or a batch."""
    architecture, shapes, trained = states.describe(config, num_classes)
    optimizer = make_optimizer(config.optim, config.train.steps, trained)

    def start(variables: Variables) -> states.TrainState:
        return states.create(variables, trained, optimizer, architecture.lasting(variables) if config.optim.ema else {})

    state = jax.eval_shape(start, shapes)
    batch = specify_batch(config, task, config.data.image_size, config.train.batch_size, train=True)
    step = make_train_step(config, task, architecture, optimizer)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return compile_step(step, _place(state, sharding.tree_shardings(state, mesh)), _spread(batch, mesh), key)


def compile_evaluation(
    config: ConfigDict, task: Task, num_classes: int, canvas: Size, mesh: Mesh
) -> jax.stages.Compiled:
    """Compile the evaluation step for a batch on one canvas, without making variables or a batch."""
    architecture, shapes, _ = states.describe(config, num_classes)
    lasting = architecture.lasting(shapes)
    batch = specify_batch(config, task, canvas, config.eval.batch_size, train=False)
    placed = _place(lasting, sharding.tree_shardings(lasting, mesh))
    return make_evaluation_step(task, architecture, mesh).lower(placed, _spread(batch, mesh)).compile()


def specify_batch(
    config: ConfigDict, task: Task, canvas: Size, count: int, *, train: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch. A batch of evaluation has no weight map."""
    keys = [key for key in make_truth(task.needs, config.data).keys if train or key != "weight_map"]
    shapes = specify((*ALWAYS, *keys), config.data, canvas, count)
    return {key: jax.ShapeDtypeStruct(shape, dtype) for key, (shape, dtype) in shapes.items()}


def _spread(batch: dict[str, jax.ShapeDtypeStruct], mesh: Mesh) -> Any:
    return _place(batch, dict.fromkeys(batch, sharding.batch_sharding(mesh)))


def _place(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda one, place: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place), tree, shardings)
