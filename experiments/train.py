"""The loop: one for every model and task. It never asks what either of them is."""

import collections
import os
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import pictures, pretrained, run_directory, sharding
from experiments import state as states
from experiments.checkpoints import Checkpoints
from experiments.errors import RunError
from experiments.evaluate import Evaluation, Evaluator, Interrupted, table, write_records
from experiments.evidence import Evidence, flops
from experiments.optim import make_optimizer, make_schedule
from experiments.preemption import Preemption
from experiments.progress import Clock, Progress
from experiments.state import Architecture, TrainState
from experiments.step import compile_step, make_train_step
from experiments.tasks import Task, make_task
from experiments.writers import Follower, MetricsFile
from input_pipeline.batch import DataError, check_batch
from input_pipeline.loader import TrainLoader
from input_pipeline.sources import open_source

FOLLOWER_SECONDS = 15.0  # that the end of a run waits for W&B, before it leaves the follower to finish by itself


def train(config: ConfigDict, workdir: pathlib.Path, data_dir: str | None, profile: bool) -> int:
    """`--mode=train`: trains, or resumes, the run in `workdir`. Returns the process's exit code."""
    with Preemption() as stop:
        trainer = Trainer(config, workdir, data_dir)
        with run_directory.claim(workdir, config):
            run_id = run_directory.wandb_id(workdir, config)
            with Follower(workdir, config.wandb, run_id, timeout=FOLLOWER_SECONDS) as follower:
                trainer.run(stop, workdir / "profile" if profile else None)
                if stop.signal:
                    follower.close(timeout=1.0, finished=False)
    return stop.exit_code


class Trainer:
    """A run: everything that its config names, made once; then `run`.

    metrics.jsonl gets at most one line a step: every `log_every` steps the training scalars of that very step, every
    `eval_every` steps the scores. Names that begin with `time/` are the only ones that differ when a run is repeated.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, data_dir: str | None):
        self.config, self.workdir = config, workdir
        self.mesh = sharding.make_mesh(config.mesh)
        sharding.check_batch_size("train.batch_size", config.train.batch_size, self.mesh, config.optim.accumulate)
        self.source = open_source(config.data, config.data.train_split, data_dir)
        eval_source = open_source(config.data, config.data.eval_split, data_dir)
        if eval_source.class_names != self.source.class_names:
            raise DataError(
                f"the classes of {config.data.train_split} and {config.data.eval_split} differ: "
                f"{self.source.class_names} and {eval_source.class_names}; both splits need the same"
            )
        self.task = make_task(config, self.source.class_names)
        self.best_name = best_metric(config.train.best, self.task)
        self.architecture, self.state, optimizer = start(config, self.mesh, len(self.source.class_names))
        self.train_step = make_train_step(config, self.task, self.architecture, optimizer)
        self.schedule = make_schedule(config.optim, config.train.steps)
        self.evaluator = Evaluator(config, self.task, self.architecture, eval_source, self.mesh)
        self.nonfinite = NonFinite(self.source.name)
        self.loader = TrainLoader(
            self.source,
            config.data,
            batch_size=config.train.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def run(self, stop: Preemption, trace: pathlib.Path | None) -> None:
        """From the newest checkpoint, or the start, to the last step or to `stop`. `trace`: where to write a profile."""
        self.stop = stop
        self.checkpoints = Checkpoints(self.workdir, self.config.train.keep)
        self.state, notes = self.checkpoints.restore(self.state) or (self.state, {"loader": 0, "row": None})
        first, total = int(self.state.step), self.config.train.steps
        self.metrics = MetricsFile(self.workdir / "metrics.jsonl")
        self.metrics.cut(first)
        self.best = max(
            (_number(row[self.best_name]) for row in self.metrics.rows() if self.best_name in row), default=-1.0
        )
        self.loader.set_state(notes["loader"])
        self.progress, self.clock, self.flops = Progress(first, total), Clock(), None
        self.evidence = Evidence(
            self.workdir,
            step=first,
            seed=self.config.seed,
            parameters=sum(value.size for value in (self.state.params | self.state.rest).values()),
            data={"train": self.source.fingerprint, "eval": self.evaluator.source.fingerprint},
        )
        if first:
            self.progress.say(f"resumed {self.workdir} at step {first} of {total}")
        try:
            # A stop during an evaluation leaves that step's line unwritten, in the notes of its checkpoint.
            if notes["row"] is None or self._finish(first, notes["row"]):
                self._steps(first, total, trace)
        finally:
            self.progress.close()
            self.loader.close()
            self.checkpoints.close()
        if int(self.state.step) == total:
            print(self._closing_words())

    def _closing_words(self) -> str:
        """The last step's scores, where its picture is, and what to do next."""
        *_, last = self.metrics.rows()
        scores = {name.removeprefix("val/"): value for name, value in last.items() if name.startswith("val/")}
        drawn = scores.pop("pictures", None)
        lines = [table(scores), "", f"finished at step {last['step']}; best {self.best_name} {self.best:.4f}"]
        lines += [f"predictions beside the truth: {self.workdir / drawn}"] if drawn else []
        command = f"{os.path.relpath(sys.executable)} main.py --mode=predict --workdir={self.workdir} --inputs=IMAGES"
        return "\n".join([*lines, f"next, on images of yours: {command}"])

    def _steps(self, first: int, total: int, trace: pathlib.Path | None) -> None:
        step_function = None
        traced = range(min(first + 3, total), min(first + 5, total) + 1) if trace else range(0)
        for step in range(first + 1, total + 1):
            if self.stop.signal:
                return self._save(step - 1)
            with self.clock.waiting():
                rows = next(self.loader)
            batch = sharding.put_batch(rows, self.mesh)
            if step_function is None:
                check_batch(rows)
                step_function = compile_step(self.train_step, self.state, batch)
                self.flops = flops(step_function)
                self.clock.restart()
            if traced and step == traced[0]:
                jax.profiler.start_trace(trace)
            self.state, logs = step_function(self.state, batch)
            self.stop.nothing_to_lose = False
            self.nonfinite.push(step, logs["loss"], rows["image_id"])
            if traced and step == traced[-1]:
                jax.block_until_ready(self.state)
                jax.profiler.stop_trace()
                self.progress.say(f"profile of steps {traced[0]} to {step}: {trace}")
            self.clock.count(self.config.train.batch_size)
            row = {}
            if step % self.config.train.log_every == 0 or step == total:
                row = {f"train/{name}": float(value) for name, value in jax.device_get(logs).items()}
                row["train/lr"] = float(self.schedule(step - 1))
                rates = self.clock.read()
                row |= {f"time/{name}": value for name, value in rates.items()}
                self.progress.report(step, row["train/loss"], rates["images_per_second"])
            self.progress.step()
            if not self._finish(step, row):
                return
            if self._evaluates_at(step):
                self.clock.restart()

    def _evaluates_at(self, step: int) -> bool:
        return step == self.config.train.steps or step % self.config.train.eval_every == 0

    def _finish(self, step: int, row: dict) -> bool:
        """What is due after a step: its evaluation, its line, its checkpoints. False when a stop came in between."""
        is_best = False
        if self._evaluates_at(step):
            self.nonfinite.drain()
            began = time.perf_counter()
            try:
                result = self.evaluator(states.evaluated(self.state), stop=lambda: self.stop.signal is not None)
            except Interrupted:
                self._save(step, row)
                return False
            row = row | {f"val/{name}": value for name, value in result.scores.items()}
            row |= self._keep(step, result) | {"time/evaluation": time.perf_counter() - began}
            is_best = _number(row[self.best_name]) > self.best
        if row:
            self.metrics.append(step, row)
        if is_best:
            self.best = row[self.best_name]
            self._save(step, kind="best")
        if step == self.config.train.steps or step % self.config.train.checkpoint_every == 0:
            self._save(step)
        return True

    def _keep(self, step: int, result: Evaluation) -> dict[str, str]:
        """Writes an evaluation's records and picture; the picture's place goes into the step's line."""
        self.progress.say(summary(step, result))
        write_records(self.workdir / "records" / "val.jsonl", result.records)
        if result.picture is None:
            return {}
        place = pathlib.Path("predictions", f"val-{step:07d}.png")
        pictures.write_png(self.workdir / place, result.picture)
        return {"val/pictures": str(place)}

    def _save(self, step: int, row: dict | None = None, kind: str = "last") -> None:
        """`row` is the step's line, where it is still to be completed and written."""
        self.nonfinite.drain()
        self.metrics.sync()
        notes = {"loader": self.loader.get_state(), "row": row, "class_names": self.source.class_names}
        self.checkpoints.save(step, self.state, notes, kind)
        compilations = self.evaluator.compilations + (self.flops is not None)
        self.evidence.update(step=step, flops_per_step=self.flops, compilations=compilations, **self.clock.total())


class NonFinite:
    """Stops the run at a loss that is NaN or infinite; looks a few steps late, so that the devices need not wait."""

    def __init__(self, name: Callable[[int], str], depth: int = 2):
        self.name, self.depth = name, depth
        self.pending: collections.deque = collections.deque()

    def push(self, step: int, loss: jax.Array, image_ids: np.ndarray) -> None:
        self.pending.append((step, loss, image_ids))
        while len(self.pending) > self.depth:
            self._check()

    def drain(self) -> None:
        while self.pending:
            self._check()

    def _check(self) -> None:
        step, loss, image_ids = self.pending.popleft()
        if not np.isfinite(loss):
            images = ", ".join(f"{index} ({self.name(index)})" for index in image_ids.tolist())
            raise RunError(
                f"the loss of step {step} is {float(loss)}; the images of its batch: {images}. Nothing of it was saved: "
                "lower config.optim.lr, set config.optim.clip, or look at these images"
            )


def start(
    config: ConfigDict, mesh: Mesh, num_classes: int
) -> tuple[Architecture, TrainState, optax.GradientTransformation]:
    """The model of a config and its state before step 1, on the devices."""
    architecture, variables, trained = states.build(config, num_classes, config.seed)
    if config.pretrained:
        variables = pretrained.load_backbone(config.pretrained, architecture, variables)
    if config.init_from:
        variables, fresh = pretrained.init_from(config.init_from, variables)
        print(f"parameters from {config.init_from}; new here: {', '.join(fresh) or 'none'}")
    optimizer = make_optimizer(config.optim, config.train.steps, trained)
    state = states.create(variables, trained, optimizer, config.optim.ema)
    return architecture, jax.device_put(state, sharding.tree_shardings(state, mesh)), optimizer


def best_metric(name: str, task: Task) -> str:
    """config.train.best, checked before the first step: RunError for a metric that the task does not have."""
    names = [f"val/{known}" for known in task.metric().compute()]
    if name not in names:
        raise RunError(f"config.train.best={name!r} is no metric of this task; choose one of {', '.join(names)}")
    return name


def summary(step: int, result: Evaluation) -> str:
    means = "  ".join(f"{name} {value:.4f}" for name, value in result.scores.items() if "/" not in name)
    return f"step {step}  val: {means}"


def _number(value: float | None) -> float:
    """A score that cannot be compared (nan, null in a file) is below every other."""
    return -1.0 if value is None or value != value else value
