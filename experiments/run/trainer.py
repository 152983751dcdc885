"""A run, with all that its config names, its state and its directory. The loop takes its steps."""

import os
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from errors import UserError
from experiments.results.registry import make_results
from experiments.run import checkpoints, pretrained, sharding
from experiments.run import state as states
from experiments.run.best import Best
from experiments.run.checkpoints import Checkpoints
from experiments.run.config_file import to_json
from experiments.run.directory import adopt, keep_wandb_id, lead, writes
from experiments.run.evaluator import Evaluation, Evaluator
from experiments.run.features import check_stage, is_solved, store_features
from experiments.run.inference import Interrupted
from experiments.run.inputs import Inputs
from experiments.run.journal import Journal
from experiments.run.lane import Lane
from experiments.run.loop import Loop
from experiments.run.nonfinite import NonFinite
from experiments.run.optim import make_optimizer, make_schedule, warn_of_short_warmup
from experiments.run.preemption import Preemption
from experiments.run.resumption import NOTHING, check_start, resume
from experiments.run.state import Architecture, TrainState
from experiments.run.step import make_train_step
from experiments.run.tables import format_score, format_table
from experiments.tasks.base import Arrays
from experiments.tasks.registry import make_task
from input_pipeline.batch import list_canvases


class Trainer:
    """A run. Make it from a config, call `restore`, then `run`.

    metrics.jsonl gets at most one row per step. Every `log_every` steps the row has the training scalars of that step, and
    every `eval_every` steps the scores. When a run is repeated, only values whose names begin with `time/` differ.
    """

    # Set by the loop and the lane that take the steps of the run; `logs` has the scalars of the last step.
    loop: Loop
    lane: Lane
    logs: Arrays

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        data_dir: str | None,
        stop: Preemption,
        mesh: Mesh | None = None,
        peer: "Trainer | None" = None,
    ):
        """Make everything that the config names.

        The run uses the devices of `mesh`; without one, config.mesh lays out all devices. `peer` is a run that differs only in
        config.seed.init. The two share the data, and on the same mesh the compiled evaluation.
        Raises UserError for fields that do not fit the data, the model or the devices.
        """
        self.config, self.workdir, self.stop, self.runs, self.words = config, workdir, stop, [self], ""
        self.mesh = sharding.make_mesh(config.mesh) if mesh is None else mesh
        if self.mesh.shape["member"] > 1:
            raise UserError(
                f"config.mesh={tuple(config.mesh)}: its first size shares devices among members, and config.members is 1; "
                "use (1, -1, 1)"
            )
        sharding.check_batch_size("train.batch_size", config.train.batch_size, self.mesh, config.optim.accumulate)
        self.fresh = not checkpoints.exists(workdir)
        white = 0 if self.fresh else checkpoints.read_white(workdir)
        self.inputs = Inputs(config, data_dir, white) if peer is None else peer.inputs
        self.source, self.truth, self.data = self.inputs.source, self.inputs.truth, self.inputs.fingerprints
        self.task = make_task(config, self.source.class_names)
        self.results = make_results(self.task.needs, config.eval, self.source.class_names)
        self.best = Best(config.train.best, self.results.metrics())
        self.architecture, self.state, optimizer = initialise_run(
            config, self.mesh, self.source.class_names, self.fresh
        )
        check_stage(config, self.task, self.state.params | self.state.rest, self.fresh)
        self.train_step = make_train_step(config, self.task, self.architecture, optimizer)
        self.others = 0  # compilations in addition to the step and the evaluation
        self.key = jax.random.key(config.seed.init)
        self.schedule = make_schedule(config.optim, config.train.steps)
        self.evaluator = self._make_evaluator() if peer is None or peer.mesh != self.mesh else peer.evaluator
        self.label = "" if mesh is None else f"{workdir.name}: "  # begins messages about one of several runs
        self.nonfinite = NonFinite(self.source.name, config, self.label)
        self.loader = self.inputs.load(config) if peer is None else peer.loader
        if peer is None and writes():
            self.inputs.introduce(config)
            warn_of_short_warmup(config.optim, config.train.steps)

    def _make_evaluator(self) -> Evaluator:
        parts = self.task, self.results, self.architecture, self.inputs.eval_source, self.mesh
        evaluator = Evaluator(self.config, *parts)
        for size in {tuple(self.config.data.image_size), *list_canvases(self.config.data)}:
            evaluator.inference.check(self.evaluated(), size)
        return evaluator

    def restore(self, accept_lost_rows: bool = False) -> None:
        """Restore the state, the data's position and metrics.jsonl from the newest checkpoint, or begin at the start.

        Rows that the checkpoint covers and metrics.jsonl lacks are an error, with `accept_lost_rows` a warning.
        """
        self.checkpoints = Checkpoints(self.workdir, self.config.train.keep)
        self.state, stored = self.checkpoints.restore(self.state) or (self.state, None)
        self.resumption = resume(self.workdir, self.config, stored, self.data)
        notes: Mapping[str, Any] = {"rows": NOTHING} if stored is None else stored
        self.first, self.pending = int(self.state.step), notes.get("row")
        if self.fresh:
            lead(lambda: check_start(self.workdir))
        self.journal = Journal(
            self.workdir,
            last_row=self.first if self.pending is None else self.first - 1,
            mark=notes.get("rows"),
            accept_lost=accept_lost_rows,
            step=self.first,
            seeds=self.config.seed.to_dict(),
            parameters=sum(value.size for value in (self.state.params | self.state.rest).values()),
            data=self.data,
            best={"score": self.best.name, "smaller_is_better": self.best.smaller_is_better},
            **self.resumption._asdict(),
        )
        for row in self.journal.rows():
            self.best.update(row.get(self.best.name))
        self.best.update(notes.get("best"))  # its row may be lost
        self.wandb_id = keep_wandb_id(self.workdir, notes.get("wandb_id"))
        adopt(self.workdir, self.config)

    def run(self, trace: pathlib.Path | None) -> None:
        """Train from the restored step to the last one, or to a stop. `stop.finished` says which.

        A profile is written to `trace`, None for no profile.
        """
        try:
            finished = Loop([Lane([self])]).run(trace)
            if finished and self.task.solves:
                shutil.rmtree(self.workdir / "features", ignore_errors=True)
            print(
                self._closing_words()
                if finished
                else f"{self.stop.cause}: {self._saved()}, start the same command again to go on"
            )
        finally:
            self.close()

    def close(self) -> None:
        """Close the files and the checkpoints. An orbax manager that is not closed loses its last save."""
        try:
            self.checkpoints.close()
        finally:
            self.journal.close()

    def begin(self) -> bool:
        """Do what is due at the restored step, before the next one. Returns False at a stop."""
        # A stop during an evaluation leaves that step's row in the notes of its checkpoint, to be completed.
        return self._begin() if self.fresh else self.pending is None or self.finish(self.first, self.pending)

    def _begin(self) -> bool:
        """Do what is due before the first step of a new run. Returns False at a stop."""
        row = {}
        if is_solved(self.task):
            try:
                data = self.config, self.task, self.architecture, self.evaluated(), self.source, self.mesh
                stored = store_features(*data, self.workdir / "features", self.stop)
                solved, logs = self.task.solve(stored)
            except Interrupted:
                return False
            self.others = stored.compilations
            self.state = states.replace(self.state, solved)
            self.stop.nothing_to_lose = False
            row = {f"train/{name}": value for name, value in logs.items()}
        return self.config.train.steps > 0 or self.finish(0, row)

    def describe(self, step: int) -> dict:
        """Return the training scalars of the last step, for its row."""
        row = {f"train/{name}": float(value) for name, value in jax.device_get(self.logs).items()}
        plan = {} if self.resumption.is_exact else {"train/planned_steps": self.config.train.steps}
        return row | {"train/lr": np.asarray(self.schedule(step - 1)).item()} | plan

    def _saved(self) -> str:
        """Describe what is saved at a stop."""
        if self.checkpoints.steps():
            return f"step {self.checkpoints.steps()[-1]} is saved"
        stored = any((self.workdir / "features").glob("*.npz"))
        return "the features stored so far are kept" if stored else "nothing is saved yet"

    def _closing_words(self) -> str:
        """Return the scores of the last step, the place of its picture, and the next command to try."""
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

    def finish(self, step: int, row: dict) -> bool:
        """Evaluate, write the row and save the checkpoints after a step, where they are due. Returns False at a stop."""
        is_best = False
        if self.loop.evaluates_at(step):
            self.nonfinite.drain()
            began = time.perf_counter()
            try:
                with self.loop.progress.during(f"{self.label}evaluating"):
                    result = self.evaluator(self.evaluated(), stop=self.loop.is_stopping)
            except Interrupted:
                self.save(step, row)
                return False
            row = row | {f"val/{name}": value for name, value in result.scores.items()}
            self.loop.progress.say(self.label + summary(step, result))
            row |= self.journal.keep(step, result) | {"time/evaluation": time.perf_counter() - began}
            is_best = self.best.update(row[self.best.name])
        if row:
            self.journal.append(step, row)
        if is_best:
            self.save(step, kind="best")
        if self.loop.saves_at(step):
            self.save(step)
        return True

    def evaluated(self) -> states.Variables:
        """Return the variables that evaluations use."""
        return states.evaluation_weights(self.state, self.architecture)

    def save(self, step: int, row: dict | None = None, kind: str = "last") -> None:
        """Save a checkpoint. `row` is the step's row, where it still has to be completed and written."""
        self.nonfinite.drain()
        mark = self.journal.sync()
        notes = {
            "loader": self.loader.get_state(),
            "row": row,
            "rows": mark,
            "best": self.best.value,
            "config": to_json(self.config),
            "plans": self.resumption.plans,
            "wandb_id": self.wandb_id,
            "class_names": self.source.class_names,
            "category_ids": self.source.category_ids,
            "white_level": self.source.white,
            "data": self.data,
        }
        self.checkpoints.save(step, self.state, notes, kind)
        compilations = self.evaluator.inference.compilations + (self.lane.compiled is not None) + self.others
        rates = self.loop.clock.total()
        devices = {"devices_of_run": self.mesh.size, "runs_on_devices": len(self.lane.runs)}
        saved = step if kind == "last" else None  # the first one was read back to check it
        self.journal.measure(
            step=step, saved=saved, flops_per_step=self.lane.flops, compilations=compilations, **devices, **rates
        )


def initialise_run(
    config: ConfigDict, mesh: Mesh, class_names: tuple[str, ...], fresh: bool = True
) -> tuple[Architecture, TrainState, optax.GradientTransformation]:
    """Make the model of a config, its state before step 1 on the devices, and its optimiser.

    `fresh` reads the weights that config.pretrained and config.init_from name; a run that resumes needs neither.
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
    """Write the scores of an evaluation over all classes in one line."""
    means = "  ".join(f"{name} {format_score(value)}" for name, value in result.scores.items() if "/" not in name)
    return f"step {step}  val: {means}"
