"""Apply a model to images of any size. Views go in, one prediction per image comes out."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from errors import UserError
from experiments.metrics.base import Prediction
from experiments.results.base import Results
from experiments.run import sharding
from experiments.run.state import Architecture, Variables
from experiments.tasks.base import Arrays, Means, Task
from input_pipeline.batch import Example, Examples, blank, stack
from input_pipeline.truths import make_truth
from input_pipeline.views import ViewBatches, check_views


class Interrupted(Exception):
    """A stop was requested, and no partial work is left."""


class Inference:
    """A task's prediction for the images of a source, compiled once per canvas.

    `compilations` counts the compilations. `terms` and `logs` are those of the task, summed over the ground truth of the last
    pass. Pixels where windows overlap count once per window.
    """

    def __init__(self, config: ConfigDict, task: Task, results: Results, architecture: Architecture, mesh: Mesh):
        self.truth = make_truth(task.needs, config.data)
        check_views(self.truth, config.data, config.eval)
        sharding.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
        self.config, self.results, self.mesh = config, results, mesh
        self.terms: Means = {}
        self.logs: Means = {}
        self._compiled: dict[tuple, jax.stages.Compiled] = {}
        self._step = make_evaluation_step(task, architecture, mesh)

    def check(self, variables: Variables, size: tuple[int, int]) -> None:
        """Trace the model for a canvas of `size` without running it, so that errors appear before a run begins.

        Raises UserError if config.train.best is val/loss and the task has no loss in evaluation.
        """
        batch = stack([blank(size, self.truth.blank(size))] * self.config.eval.batch_size)
        _, (terms, _) = jax.eval_shape(self._step, variables, batch)
        if self.config.train.best == "val/loss" and not terms:
            raise UserError(
                f"config.train.best='val/loss' is not available: config.task.name={self.config.task.name!r} has no loss in "
                "evaluation; choose a score of config.eval.metrics, such as val/AP50"
            )

    @property
    def programs(self) -> list[jax.stages.Compiled]:
        """The compiled steps, one per canvas."""
        return list(self._compiled.values())

    @property
    def compilations(self) -> int:
        return len(self._compiled)

    def __call__(
        self, variables: Variables, source: Examples, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Example, Prediction]]:
        """Yield (index, example, prediction) of each image of this process, once its last view is predicted.

        Raises Interrupted as soon as `stop()` is true.
        """
        self.terms, self.logs = {}, {}
        batches = self._batches(source)
        parts: dict[
            int, list
        ] = {}  # unfinished images by index, each with its assembly and the number of views still to come
        for rows, pieces in batches:
            if stop():
                raise Interrupted
            batch = sharding.put_batch(rows, self.mesh)
            predictions, (terms, logs) = self._compile_for(variables, batch)(variables, batch)
            self.terms, self.logs = _added(self.terms, terms), _added(self.logs, logs)
            predictions = jax.tree.map(sharding.local_rows, predictions)
            for row, piece in enumerate(pieces):
                example = batches.example(piece.index)
                if piece.index not in parts:
                    matrices = [view.matrix for view in batches.views(piece.index)]
                    parts[piece.index] = [self.results.assembly(example["image"].shape[:2], matrices), piece.count]
                part = parts[piece.index]
                own = {name: values[row] for name, values in predictions.items()}
                part[0].add(own, piece.view.canvas, piece.view.matrix)
                part[1] -= 1
                if not part[1]:
                    yield piece.index, example, parts.pop(piece.index)[0].result()
                    batches.release(piece.index)
        if parts:
            raise UserError(f"{source.name(min(parts))} has another size than its header says; replace the file")

    def compile(self, variables: Variables, source: Examples) -> None:
        """Compile for the first canvas, while a stop would lose nothing."""
        rows, _ = next(iter(self._batches(source)))
        self._compile_for(variables, sharding.put_batch(rows, self.mesh))

    def _batches(self, source: Examples) -> ViewBatches:
        return ViewBatches(
            source,
            self.truth,
            self.config.data,
            self.config.eval,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _compile_for(self, variables: Variables, batch: Arrays) -> Callable[..., Any]:
        shape = batch["image"].shape
        if shape not in self._compiled:
            self._compiled[shape] = self._step.lower(variables, batch).compile()
        return self._compiled[shape]


def make_evaluation_step(task: Task, architecture: Architecture, mesh: Mesh) -> jax.stages.Wrapped:
    """Make the step that maps (variables, global batch) to (predictions, (loss terms, logs))."""

    def step(variables: Variables, batch: Arrays) -> tuple[Arrays, tuple[Means, Means]]:
        outputs = task.apply(architecture.merge(variables), batch, train=False, rngs=None)
        return task.predict(outputs, batch), task.loss(outputs, batch)

    return jax.jit(step, out_shardings=(sharding.batch_sharding(mesh), sharding.replicated(mesh)))


def _added(sums: Means, means: Means) -> Means:
    """Add the `means` of one batch to the `sums` of the earlier ones, in double precision on the host."""
    means = jax.tree.map(lambda value: np.asarray(value, np.float64), jax.device_get(means))
    return jax.tree.map(np.add, sums, means) if sums else means
