"""The program of an export, a task's prediction as one function of arrays for any number of images of one size."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from experiments.run.state import Architecture, Variables
from experiments.tasks.base import Arrays, Task
from input_pipeline.batch import PROPOSALS, Size, list_canvases
from input_pipeline.batch import specify as specify_batch


class Program(NamedTuple):
    """A network with its task.

    `predict(variables, inputs)` takes both by name. `specify(count)` returns the inputs' shapes, where the count of images
    is a number or a symbol.
    """

    predict: Callable[[Variables, Arrays], Arrays]
    specify: Callable[[Any], dict[str, jax.ShapeDtypeStruct]]


def make_program(config: ConfigDict, architecture: Architecture, task: Task) -> Program:
    """Make the program of a config for its canvas.

    Every program takes `image`. A detector whose config.data.fit leaves a border also takes `area` [B,4], the part of the
    canvas that shows the image. A detector of given regions also takes `proposals` and `proposal_mask`. Raises UserError if
    the config has several canvases.
    """
    canvas = find_canvas(config)
    keys = ("image", *(PROPOSALS if "proposals" in task.needs else ()))
    bordered = "boxes" in task.needs and config.data.fit != "stretch"

    def specify(count: Any) -> dict[str, jax.ShapeDtypeStruct]:
        area = {"area": ((count, 4), np.dtype(np.float32))} if bordered else {}
        shapes = specify_batch(keys, config.data, canvas, count) | area
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def predict(variables: Variables, inputs: Arrays) -> Arrays:
        count = inputs["image"].shape[0]
        area = inputs.get("area", jnp.broadcast_to(jnp.array([0, 0, *canvas], jnp.float32), (count, 4)))
        top, left, bottom, right = area.T
        # The image is treated as stored at the size at which the canvas shows it.
        one, zero = jnp.ones_like(top), jnp.zeros_like(top)
        placed = jnp.stack([jnp.stack([one, zero, -left], -1), jnp.stack([zero, one, -top], -1)], 1)
        batch = {name: value for name, value in inputs.items() if name != "area"} | {
            "example_mask": jnp.ones(count, bool),
            "original_size": jnp.stack([bottom - top, right - left], -1),
            "to_original": placed,
        }
        return task.predict(task.apply(architecture.merge(variables), batch, train=False, rngs=None), batch)

    return Program(predict, specify)


def find_canvas(config: ConfigDict) -> Size:
    """Return the canvas size of evaluation, (height, width). Raises UserError if the config has several canvases."""
    canvas, *others = list_canvases(config.data)
    if others:
        raise UserError(
            f"config.data.canvases has {1 + len(others)} sizes, but an export takes one; choose one, such as "
            f"--config.data.canvases='(({canvas[0]},{canvas[1]}),)'"
        )
    return canvas
