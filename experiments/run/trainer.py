"""The loop: one for every model and task. It does not depend on either of them."""

import os
import pathlib
import shutil
import sys
import time

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from errors import UserError, warn
from experiments.results.registry import make_results
from experiments.run import checkpoints, pretrained, sharding
from experiments.run import state as states
from experiments.run.best import Best
from experiments.run.checkpoints import Checkpoints
from experiments.run.directory import writes
from experiments.run.evaluator import Evaluation, Evaluator
from experiments.run.evidence import flops
from experiments.run.features import check_stage, store_features
from experiments.run.inference import Interrupted
from experiments.run.journal import Journal
from experiments.run.nonfinite import NonFinite
from experiments.run.optim import make_optimizer, make_schedule
from experiments.run.preemption import Preemption
from experiments.run.progress import Clock, Progress
from experiments.run.state import Architecture, TrainState
from experiments.run.step import compile_step, make_train_step
from experiments.run.tables import format_table
from experiments.tasks.registry import find_task, make_task
from input_pipeline.batch import check_batch
from input_pipeline.loader import TrainLoader
from input_pipeline.sources import Source, open_source
from input_pipeline.truths import make_truth
from input_pipeline.views import list_canvases


class Trainer:
    """A run: everything that its config names, made once; then `restore`, then `run`.

    metrics.jsonl gets at most one line per step: every `log_every` steps the training scalars of that very step, every
    `eval_every` steps the scores. Names that begin with `time/` are the only ones that differ when a run is repeated.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, data_dir: str | None, stop: Preemption):
        self.config, self.workdir, self.stop = config, workdir, stop
        if config.train.max_minutes and jax.process_count() > 1:
            raise UserError(
                f"config.train.max_minutes={config.train.max_minutes:g} is not supported with several processes, whose clocks "
                "differ; set it to 0 and let the scheduler send SIGTERM"
            )
        self.mesh = sharding.make_mesh(config.mesh)
        sharding.check_batch_size("train.batch_size", config.train.batch_size, self.mesh, config.optim.accumulate)
        needs = find_task(config.task.name).needs
        self.truth = make_truth(needs, config.data)
        self.source = open_source(config.data, config.data.train_split, data_dir, self.truth.asks)
        eval_source = open_source(config.data, config.data.eval_split, data_dir, needs)
        if eval_source.class_names != self.source.class_names:
            raise UserError(
                f"the classes of {config.data.train_split} and {config.data.eval_split} differ: "
                f"{self.source.class_names} and {eval_source.class_names}; both splits need the same"
            )
        self.task = make_task(config, self.source.class_names)
        self.results = make_results(self.task.needs, config.eval, self.source.class_names)
        self.best = Best(config.train.best, self.results.metrics())
        self.fresh = not checkpoints.exists(workdir)
        self.architecture, self.state, optimizer = initialise_run(
            config, self.mesh, self.source.class_names, self.fresh
        )
        check_stage(config, self.task, self.state.params | self.state.rest, self.fresh)
        self.train_step = make_train_step(config, self.task, self.architecture, optimizer)
        self.compiled: jax.stages.Compiled | None = None
        self.others = 0  # compilations of what is neither the step nor the evaluation
        self.key = jax.random.key(config.seed.init)
        self.schedule = make_schedule(config.optim, config.train.steps)
        self.evaluator = Evaluator(config, self.task, self.results, self.architecture, eval_source, self.mesh)
        for size in {tuple(config.data.image_size), *list_canvases(config.data)}:
            self.evaluator.inference.check(self._evaluated(), size)
        self.nonfinite = NonFinite(self.source.name)
        self.loader = TrainLoader(
            self.source,
            self.truth,
            config.data,
            batch_size=config.train.batch_size,
            seed=config.seed.data,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        self.data = {"train": self.source.fingerprint, "eval": eval_source.fingerprint}
        if writes():
            self._introduce(eval_source)

    def _introduce(self, eval_source: Source) -> None:
        """Prints what there is to train and to evaluate on, and warns of what is missing."""
        config = self.config
        for split, part in ((config.data.train_split, self.source), (config.data.eval_split, eval_source)):
            if part.dropped:
                warn(
                    f"{split}: {len(part.dropped)} files are left out, they cannot be decoded: {', '.join(part.dropped)}"
                )
        if self.source.absent:
            warn(
                f"{config.data.train_split} has no pixel of {', '.join(self.source.absent)}: such a class cannot be learned, "
                "and is not part of the mean scores unless it is predicted"
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
                "restore that data, or start a new run with config.init_from"
            )
        self.first, self.pending = int(self.state.step), notes["row"]
        self.loader.set_state(notes["loader"])
        self.journal = Journal(
            self.workdir,
            last_row=-1 if self.fresh else self.first if self.pending is None else self.first - 1,
            step=self.first,
            seeds=self.config.seed.to_dict(),
            parameters=sum(value.size for value in (self.state.params | self.state.rest).values()),
            data=self.data,
            best={"score": self.best.name, "smaller_is_better": self.best.smaller_is_better},
        )
        for row in self.journal.rows():
            self.best.update(row.get(self.best.name))

    def run(self, trace: pathlib.Path | None) -> None:
        """From the restored step to the last one, or to a stop; `stop.finished` says which. `trace`: where to write a profile."""
        self.progress, self.clock = Progress(self.first, self.config.train.steps), Clock()
        if self.first:
            self.progress.say(f"resumed {self.workdir} at step {self.first} of {self.config.train.steps}")
        try:
            # A stop during an evaluation left that step's line in the notes of its checkpoint, to be completed.
            complete = self._begin() if self.fresh else self.pending is None or self._finish(self.first, self.pending)
            finished = complete and self._steps(trace)
            self.checkpoints.wait()
            self.stop.finished = finished
            if finished and self.task.solves:
                shutil.rmtree(self.workdir / "features", ignore_errors=True)
            print(
                self._closing_words()
                if finished
                else f"{self.stop.cause}: {self._saved()}, start the same command again to go on"
            )
        finally:
            self.progress.close()
            self.loader.close()
            self.checkpoints.close()
            self.journal.close()

    def _begin(self) -> bool:
        """What is due before the first step of a new run. False when a stop came."""
        row = {}
        if self.task.solves:
            try:
                data = self.config, self.task, self.architecture, self._evaluated(), self.source, self.mesh
                stored = store_features(*data, self.workdir / "features", self.stop)
                solved, logs = self.task.solve(stored)
            except Interrupted:
                return False
            self.others = stored.compilations
            self.state = states.replace(self.state, solved)
            self.stop.nothing_to_lose = False
            row = {f"train/{name}": value for name, value in logs.items()}
        return self.config.train.steps > 0 or self._finish(0, row)

    def _steps(self, trace: pathlib.Path | None) -> bool:
        """False when a stop came."""
        total = self.config.train.steps
        last_traced = min(self.first + 5, total)
        traced = range(max(self.first + 1, last_traced - 2), last_traced + 1) if trace else range(0)
        for step in range(self.first + 1, total + 1):
            if self._is_stopping():
                self._save(step - 1)
                return False
            with self.clock.waiting():
                rows = next(self.loader)
            batch = sharding.put_batch(rows, self.mesh)
            if self.compiled is None:
                check_batch(rows, self.truth.keys)
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

    def _saved(self) -> str:
        """What a stop has left to go on from."""
        if self.checkpoints.steps():
            return f"step {self.checkpoints.steps()[-1]} is saved"
        stored = any((self.workdir / "features").glob("*.npz"))
        return "what is stored of the features stays" if stored else "nothing is saved yet"

    def _closing_words(self) -> str:
        """The last step's scores, where its picture is, and what to do next."""
        last = self.journal.rows()[-1]
        scores = {name.removeprefix("val/"): value for name, value in last.items() if name.startswith("val/")}
        drawn = scores.pop("examples", None)
        numbers = {name: value for name, value in scores.items() if not isinstance(value, str)}
        lines = [
            format_table(numbers),
            "",
            f"finished at step {last['step']}; {self.best}",
        ]
        lines += [f"predictions next to the ground truth: {self.workdir / drawn}"] if drawn else []
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
                result = self.evaluator(self._evaluated(), stop=self._is_stopping)
            except Interrupted:
                self._save(step, row)
                return False
            row = row | {f"val/{name}": value for name, value in result.scores.items()}
            self.progress.say(summary(step, result))
            row |= self.journal.keep(step, result) | {"time/evaluation": time.perf_counter() - began}
            is_best = self.best.update(row[self.best.name])
        if row:
            self.journal.append(step, row)
        if is_best:
            self._save(step, kind="best")
        if step == self.config.train.steps or step % self.config.train.checkpoint_every == 0:
            self._save(step)
        return True

    def _is_stopping(self) -> bool:
        return self.stop.requested(reserve=self.checkpoints.longest_save)

    def _evaluated(self) -> states.Variables:
        return states.evaluation_weights(self.state, self.architecture)

    def _save(self, step: int, row: dict | None = None, kind: str = "last") -> None:
        """`row` is the step's line, where it is still to be completed and written."""
        self.nonfinite.drain()
        self.journal.sync()
        notes = {
            "loader": self.loader.get_state(),
            "row": row,
            "class_names": self.source.class_names,
            "category_ids": self.source.category_ids,
            "data": self.data,
        }
        self.checkpoints.save(step, self.state, notes, kind)
        count = flops(self.compiled) if self.compiled else None
        compilations = self.evaluator.inference.compilations + (self.compiled is not None) + self.others
        self.journal.measure(step=step, flops_per_step=count, compilations=compilations, **self.clock.total())


def initialise_run(
    config: ConfigDict, mesh: Mesh, class_names: tuple[str, ...], fresh: bool = True
) -> tuple[Architecture, TrainState, optax.GradientTransformation]:
    """The model of a config and its state before step 1, on the devices.

    `fresh` reads what config.pretrained and config.init_from name; a run that resumes needs neither.
    """
    architecture, _, trained = states.describe(config, len(class_names))
    variables = states.initialise(config, len(class_names), config.seed.init)
    if fresh:
        variables, _ = pretrained.fill(config, architecture, variables, class_names)
    optimizer = make_optimizer(config.optim, config.train.steps, trained)
    averaged = architecture.lasting(variables) if config.optim.ema else {}
    state = states.create(variables, trained, optimizer, averaged)
    return architecture, jax.device_put(state, sharding.tree_shardings(state, mesh)), optimizer


def summary(step: int, result: Evaluation) -> str:
    means = "  ".join(f"{name} {value:.4f}" for name, value in result.scores.items() if "/" not in name)
    return f"step {step}  val: {means}"
