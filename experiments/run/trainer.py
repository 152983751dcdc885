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

from errors import UserError, warn
from experiments.results.base import Results
from experiments.results.registry import make_results
from experiments.run import checkpoints, pretrained, sharding
from experiments.run import state as states
from experiments.run.checkpoints import Checkpoints
from experiments.run.evaluator import Evaluation, Evaluator, table, write_result
from experiments.run.evidence import Evidence, flops
from experiments.run.inference import Interrupted
from experiments.run.metrics_file import MetricsFile
from experiments.run.optim import make_optimizer, make_schedule
from experiments.run.preemption import Preemption
from experiments.run.progress import Clock, Progress
from experiments.run.state import Architecture, TrainState
from experiments.run.step import compile_step, make_train_step
from experiments.tasks.registry import make_task
from input_pipeline.batch import check_batch
from input_pipeline.loader import TrainLoader
from input_pipeline.sources import open_source

FOLLOWER_SECONDS = 15.0  # that the end of a run waits for W&B, before it leaves the follower to finish by itself


class Trainer:
    """A run: everything that its config names, made once; then `restore`, then `run`.

    metrics.jsonl gets at most one line a step: every `log_every` steps the training scalars of that very step, every
    `eval_every` steps the scores. Names that begin with `time/` are the only ones that differ when a run is repeated.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, data_dir: str | None, stop: Preemption):
        self.config, self.workdir, self.stop = config, workdir, stop
        self.mesh = sharding.make_mesh(config.mesh)
        sharding.check_batch_size("train.batch_size", config.train.batch_size, self.mesh, config.optim.accumulate)
        self.source = open_source(config.data, config.data.train_split, data_dir)
        eval_source = open_source(config.data, config.data.eval_split, data_dir)
        if eval_source.class_names != self.source.class_names:
            raise UserError(
                f"the classes of {config.data.train_split} and {config.data.eval_split} differ: "
                f"{self.source.class_names} and {eval_source.class_names}; both splits need the same"
            )
        self.task = make_task(config, self.source.class_names)
        self.results = make_results(self.task.needs, config.eval, self.source.class_names)
        self.best_name = best_metric(config.train.best, self.results)
        fresh = not checkpoints.exists(workdir)
        self.architecture, self.state, optimizer = start(config, self.mesh, len(self.source.class_names), fresh)
        self.train_step = make_train_step(config, self.task, self.architecture, optimizer)
        self.compiled: jax.stages.Compiled | None = None
        self.key = jax.device_put(jax.random.key(config.seed), sharding.replicated(self.mesh))
        self.schedule = make_schedule(config.optim, config.train.steps)
        self.evaluator = Evaluator(config, self.task, self.results, self.architecture, eval_source, self.mesh)
        for size in {tuple(config.data.image_size), *map(tuple, config.data.canvases)}:
            self.evaluator.inference.check(self._evaluated(), size)
        self.nonfinite = NonFinite(self.source.name)
        self.loader = TrainLoader(
            self.source,
            config.data,
            batch_size=config.train.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self.data = {"train": self.source.fingerprint, "eval": eval_source.fingerprint}
        for split, part in ((config.data.train_split, self.source), (config.data.eval_split, eval_source)):
            if part.dropped:
                warn(
                    f"{split}: {len(part.dropped)} files are left out, they cannot be decoded: {', '.join(part.dropped)}"
                )
        if self.source.absent:
            warn(
                f"{config.data.train_split} has no pixel of {', '.join(self.source.absent)}: such a class cannot be learned, "
                "and is no part of the mean scores unless it is predicted"
            )
        print(
            f"{config.data.name}: {len(self.source)} images to train on, {len(eval_source)} to evaluate on, "
            f"{len(self.source.class_names)} classes"
        )

    def restore(self) -> None:
        """Brings state, data and metrics.jsonl to the newest checkpoint; without one, to the start."""
        self.checkpoints = Checkpoints(self.workdir, self.config.train.keep)
        self.state, notes = self.checkpoints.restore(self.state) or (self.state, {"loader": 0, "row": None})
        if notes.get("data", self.data) != self.data:
            raise UserError(
                f"the data is not what {self.workdir} was trained on (fingerprints {notes['data']} then, {self.data} now); "
                "bring that back, or start a new run with config.init_from"
            )
        self.first, self.pending = int(self.state.step), notes["row"]
        self.loader.set_state(notes["loader"])
        self.metrics = MetricsFile(self.workdir / "metrics.jsonl")
        self.metrics.cut(self.first if self.pending is None else self.first - 1)
        scores = (_number(row[self.best_name]) for row in self.metrics.rows() if self.best_name in row)
        self.best = max(scores, default=-1.0)
        self.evidence = Evidence(
            self.workdir,
            step=self.first,
            seed=self.config.seed,
            parameters=sum(value.size for value in (self.state.params | self.state.rest).values()),
            data=self.data,
        )

    def run(self, trace: pathlib.Path | None) -> None:
        """From the restored step to the last one, or to a stop. `trace`: where to write a profile."""
        self.progress, self.clock = Progress(self.first, self.config.train.steps), Clock()
        if self.first:
            self.progress.say(f"resumed {self.workdir} at step {self.first} of {self.config.train.steps}")
        try:
            # A stop during an evaluation left that step's line in the notes of its checkpoint, to be completed.
            complete = self.pending is None or self._finish(self.first, self.pending)
            finished = complete and self._steps(trace)
            self.checkpoints.wait()
            saved = self.checkpoints.steps()[-1]
            print(
                self._closing_words()
                if finished
                else f"stopped: step {saved} is saved, start the same command again to go on"
            )
        finally:
            self.progress.close()
            self.loader.close()
            self.checkpoints.close()
            self.metrics.close()

    def _steps(self, trace: pathlib.Path | None) -> bool:
        """False when a stop came."""
        total = self.config.train.steps
        last_traced = min(self.first + 5, total)
        traced = range(max(self.first + 1, last_traced - 2), last_traced + 1) if trace else range(0)
        for step in range(self.first + 1, total + 1):
            if self.stop.signal:
                self._save(step - 1)
                return False
            with self.clock.waiting():
                rows = next(self.loader)
            batch = sharding.put_batch(rows, self.mesh)
            if self.compiled is None:
                check_batch(rows)
                self.progress.say("compiling the training step and the evaluation")
                self.compiled = compile_step(self.train_step, self.state, batch, self.key)
                self.evaluator.inference.compile(self._evaluated(), self.evaluator.source)
                self.clock.restart()
                self.progress.restart()
            if traced and step == traced[0]:
                jax.profiler.start_trace(trace)
            self.state, logs = self.compiled(self.state, batch, self.key)
            self.stop.nothing_to_lose = False
            self.nonfinite.push(step, logs, rows["image_id"])
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
                return False
            if self._evaluates_at(step):
                self.clock.restart()
        return True

    def _closing_words(self) -> str:
        """The last step's scores, where its picture is, and what to do next."""
        *_, last = self.metrics.rows()
        scores = {name.removeprefix("val/"): value for name, value in last.items() if name.startswith("val/")}
        drawn = scores.pop("examples", None)
        numbers = {name: value for name, value in scores.items() if not isinstance(value, str)}
        lines = [
            table(numbers),
            "",
            f"finished at step {last['step']}; best {self.best_name} {max(self.best, 0.0):.4f}",
        ]
        lines += [f"predictions beside the truth: {self.workdir / drawn}"] if drawn else []
        command = f"{os.path.relpath(sys.executable)} main.py --mode=predict --workdir={self.workdir} --inputs=IMAGES"
        return "\n".join([*lines, f"next, on images of yours: {command}"])

    def _evaluates_at(self, step: int) -> bool:
        return step == self.config.train.steps or step % self.config.train.eval_every == 0

    def _finish(self, step: int, row: dict) -> bool:
        """What is due after a step: its evaluation, its line, its checkpoints. False when a stop came in between."""
        is_best = False
        if self._evaluates_at(step):
            self.nonfinite.drain()
            began = time.perf_counter()
            try:
                result = self.evaluator(self._evaluated(), stop=lambda: self.stop.signal is not None)
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

    def _evaluated(self) -> states.Variables:
        return states.evaluated(self.state, self.architecture)

    def _keep(self, step: int, result: Evaluation) -> dict[str, str]:
        """Writes an evaluation's records, table and pictures; the places of the latter two go into the step's line."""
        self.progress.say(summary(step, result))
        places = write_result(self.workdir, f"val-{step:07d}", result, records="val")
        return {f"val/{kind}": place for kind, place in places.items()}

    def _save(self, step: int, row: dict | None = None, kind: str = "last") -> None:
        """`row` is the step's line, where it is still to be completed and written."""
        self.nonfinite.drain()
        self.metrics.sync()
        notes = {
            "loader": self.loader.get_state(),
            "row": row,
            "class_names": self.source.class_names,
            "category_ids": self.source.category_ids,
            "data": self.data,
        }
        self.checkpoints.save(step, self.state, notes, kind)
        count = flops(self.compiled) if self.compiled else None
        compilations = self.evaluator.inference.compilations + (self.compiled is not None)
        self.evidence.update(step=step, flops_per_step=count, compilations=compilations, **self.clock.total())


class NonFinite:
    """Stops the run at a loss or gradient that is NaN or infinite; looks a few steps late, so that devices need not wait."""

    def __init__(self, name: Callable[[int], str], depth: int = 2):
        self.name, self.depth = name, depth
        self.pending: collections.deque = collections.deque()

    def push(self, step: int, logs: dict[str, jax.Array], image_ids: np.ndarray) -> None:
        self.pending.append((step, {"loss": logs["loss"], "gradient's norm": logs["grad_norm"]}, image_ids))
        while len(self.pending) > self.depth:
            self._check()

    def drain(self) -> None:
        while self.pending:
            self._check()

    def _check(self) -> None:
        step, values, image_ids = self.pending.popleft()
        for what, value in values.items():
            if not np.isfinite(value):
                images = ", ".join(f"{index} ({self.name(index)})" for index in image_ids.tolist())
                raise UserError(
                    f"the {what} of step {step} is {float(value)}; the images of its batch: {images}. Nothing of it was "
                    "saved: look at these images, or start in a new --workdir with a lower optim.lr or with optim.clip"
                )


def start(
    config: ConfigDict, mesh: Mesh, num_classes: int, fresh: bool = True
) -> tuple[Architecture, TrainState, optax.GradientTransformation]:
    """The model of a config and its state before step 1, on the devices.

    `fresh` reads what config.pretrained and config.init_from name; a run that resumes needs neither.
    """
    architecture, _, trained = states.describe(config, num_classes)
    variables = states.initialise(config, num_classes, config.seed)
    if config.pretrained and fresh:
        variables = pretrained.load_backbone(config.pretrained, architecture, variables)
    if config.init_from and fresh:
        variables, new = pretrained.init_from(config.init_from, variables)
        print(f"parameters from {config.init_from}; new here: {', '.join(new) or 'none'}")
    optimizer = make_optimizer(config.optim, config.train.steps, trained)
    averaged = architecture.lasting(variables) if config.optim.ema else {}
    state = states.create(variables, trained, optimizer, averaged)
    return architecture, jax.device_put(state, sharding.tree_shardings(state, mesh)), optimizer


def check_numbers(config: ConfigDict) -> None:
    """Raises UserError for a count that is not a positive whole number, and for a seed below 0."""
    names = ["train.batch_size", "train.steps", "train.log_every", "train.eval_every", "train.checkpoint_every"]
    names += ["train.keep", "eval.batch_size", "optim.accumulate", "data.num_threads", "data.prefetch"]
    for name in names:
        section, field = name.split(".")
        if config[section][field] < 1:
            raise UserError(f"config.{name}={config[section][field]} is out of its range; it must be 1 or more")
    if config.seed < 0:
        raise UserError(f"config.seed={config.seed} is out of its range; it must be 0 or more")


def best_metric(name: str, results: Results) -> str:
    """config.train.best, checked before the first step: UserError for a metric that the task does not have."""
    scores = [known for metric in results.metrics() for known in metric.compute()]
    names = [f"val/{known}" for known in scores if not known.endswith("_error")]  # of an error the largest is the worst
    if name not in names:
        raise UserError(
            f"config.train.best={name!r} is no metric of this task; choose one of {', '.join(names) or 'none'}"
        )
    return name


def summary(step: int, result: Evaluation) -> str:
    means = "  ".join(f"{name} {value:.4f}" for name, value in result.scores.items() if "/" not in name)
    return f"step {step}  val: {means}"


def _number(value: float | None) -> float:
    """A score that cannot be compared (nan, null in a file) is below every other."""
    return -1.0 if value is None or value != value else value
