"""Scores a model on a split: every image counts exactly once, whatever the batch size and the number of devices."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments import pictures, sharding
from experiments.errors import RunError
from experiments.pretrained import load_run
from experiments.state import Architecture, Variables
from experiments.tasks import Task, make_task
from experiments.writers import write_atomically
from input_pipeline.loader import eval_batches
from input_pipeline.sources import Source, open_source


class Interrupted(Exception):
    """The evaluation was asked to stop; it left nothing behind."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`scores` by name, `records` one row an image in the order of the split, `picture` of the first few images."""

    scores: dict[str, float]
    records: list[dict]
    picture: np.ndarray | None


class Evaluator:
    """Evaluates any variables of one model on one split. Compiles once per canvas; `compilations` counts them."""

    def __init__(self, config: ConfigDict, task: Task, architecture: Architecture, source: Source, mesh: Mesh):
        sharding.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
        self.config, self.task, self.source, self.mesh = config, task, source, mesh
        self._compiled: dict[tuple, Callable] = {}

        def step(variables: Variables, batch: dict[str, jax.Array]) -> dict:
            model = architecture.merge(variables)
            (total, weight), logs = task.loss(model, batch, train=False, rngs=None)
            predictions = task.predict(model, batch)
            return {
                "sums": {"loss": (total, weight)} | logs,
                "counts": task.measure(predictions, batch),
                "image_id": batch["image_id"],
                "example_mask": batch["example_mask"],
                "predictions": jax.tree.map(lambda rows: rows[: config.eval.pictures], predictions),
            }

        # Counts come back whole to every process: all of them then know the same scores without another exchange.
        self._step = jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec()))

    @property
    def compilations(self) -> int:
        return len(self._compiled)

    def __call__(self, variables: Variables, stop: Callable[[], bool] = lambda: False) -> Evaluation:
        """Raises Interrupted as soon as `stop()` is true."""
        metric, records, picture = self.task.metric(), [], None
        sums: dict[str, np.ndarray] = {}
        for rows in self._batches():
            if stop():
                raise Interrupted
            batch = sharding.put_batch(rows, self.mesh)
            out = jax.device_get(self._compile_for(variables, batch)(variables, batch))
            for name, pair in out["sums"].items():
                sums[name] = sums.get(name, 0.0) + np.asarray(pair, np.float64)
            real = out["example_mask"]
            metric = metric.merge(out["counts"][real])
            for index, counts in zip(out["image_id"][real].tolist(), out["counts"][real], strict=True):
                row = {"image_id": index, "name": self.source.name(index)}
                records.append(row | self.task.record(counts))
            if picture is None and self.config.eval.pictures:
                shown = rows["example_mask"][: self.config.eval.pictures]
                first = {name: values[: len(shown)][shown] for name, values in rows.items()}
                picture = self.task.draw(first, {k: v[: len(shown)][shown] for k, v in out["predictions"].items()})
        means = {name: float(total / weight) if weight else float("nan") for name, (total, weight) in sums.items()}
        records.sort(key=lambda row: row["image_id"])
        return Evaluation(means | metric.compute(), records, picture)

    def _batches(self) -> Iterable[dict[str, np.ndarray]]:
        return eval_batches(
            self.source,
            self.config.data,
            batch_size=self.config.eval.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def compile(self, variables: Variables) -> None:
        """Compiles for the first canvas now, where a run has nothing to lose yet by a stop."""
        rows = next(iter(self._batches()))
        self._compile_for(variables, sharding.put_batch(rows, self.mesh))

    def _compile_for(self, variables: Variables, batch: dict[str, jax.Array]) -> Callable:
        shape = batch["image"].shape
        if shape not in self._compiled:
            self._compiled[shape] = self._step.lower(variables, batch).compile()
        return self._compiled[shape]


def write_records(path: pathlib.Path, records: list[dict]) -> None:
    """One JSON object a line, an image each."""
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in records).encode())


def table(scores: Mapping[str, float | None]) -> str:
    """Per-class scores as aligned text, the means below."""
    names = [name.split("/", 1)[1] for name in scores if name.startswith("IoU/")]
    kinds = sorted({name.split("/", 1)[0] for name in scores if "/" in name}, reverse=True)
    width = max(map(len, [*names, "pixel_accuracy"]))
    lines = [f"{'class':<{width}}" + "".join(f"{kind:>8}" for kind in kinds)]
    lines += [f"{name:<{width}}" + "".join(_cell(scores[f"{kind}/{name}"]) for kind in kinds) for name in names]
    lines += [f"{name:<{width}}{_cell(value)}" for name, value in scores.items() if "/" not in name]
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return f"{'-' if value is None or np.isnan(value) else format(value, '.3f'):>8}"


def evaluate(config: ConfigDict, workdir: pathlib.Path, data_dir: str | None, checkpoint: str, weights: str) -> dict:
    """`--mode=evaluate`: scores a checkpoint of a run on config.data.eval_split, prints the table, writes the records.

    The config may differ from the run's in everything but the model.
    """
    architecture, variables, notes = load_run(config, workdir, checkpoint, weights)
    source = open_source(config.data, config.data.eval_split, data_dir)
    if list(source.class_names) != notes["class_names"]:
        raise RunError(
            f"{config.data.eval_split} has the classes {list(source.class_names)}, the run was trained on "
            f"{notes['class_names']}; evaluate it on data with the same classes in the same order"
        )
    mesh, step = sharding.make_mesh(config.mesh), notes["step"]
    task = make_task(config, source.class_names)
    variables = jax.device_put(variables, sharding.tree_shardings(variables, mesh))
    began = time.perf_counter()
    result = Evaluator(config, task, architecture, source, mesh)(variables)
    seconds = time.perf_counter() - began
    name = f"{config.data.eval_split}-{checkpoint}-{weights}-{step}".replace("/", "_")
    if jax.process_index() == 0:
        write_records(workdir / "records" / f"{name}.jsonl", result.records)
        summary = {"step": step, "images": len(result.records), "checkpoint": checkpoint, "weights": weights}
        summary["scores"] = {key: None if np.isnan(value) else value for key, value in result.scores.items()}
        write_atomically(workdir / "records" / f"{name}.json", json.dumps(summary, indent=2).encode() + b"\n")
        print(table(result.scores))
        print(
            f"\n{len(result.records)} images of {config.data.eval_split}, {checkpoint} checkpoint (step {step}), "
            f"{weights} weights, {seconds:.1f} s; rows per image: {workdir / 'records' / name}.jsonl"
        )
        if result.picture is not None:
            pictures.write_png(workdir / "predictions" / f"{name}.png", result.picture)
            print(f"picture: {workdir / 'predictions' / name}.png")
    return result.scores
