"""The training loop of one run or several. It is the same for every model and task."""

import concurrent.futures
import pathlib
import time
from collections.abc import Sequence

import jax
import numpy as np

from experiments.run.lane import Lane, Run
from experiments.run.out_of_memory import explain_training
from experiments.run.processes import Agreement
from experiments.run.progress import Clock, Progress
from experiments.run.screen import describe_compiled


class Loop:
    """The loop over the steps of runs that see the same batches. It begins at the step of the run with the fewest steps done.

    A run that was saved at a later step waits until the others have reached it.
    """

    def __init__(self, lanes: Sequence[Lane]):
        self.lanes, self.runs = lanes, [run for lane in lanes for run in lane.runs]
        leader = self.runs[0]
        self.train, self.stop, self.loader = leader.config.train, leader.stop, leader.loader
        self.first = min(run.first for run in self.runs)
        self.loader.set_state(self.first)
        for run in self.runs:
            run.loop = self

    def run(self, trace: pathlib.Path | None) -> bool:
        """Run to the last step or to a stop. Returns whether the last step was reached.

        All checkpoints are on disk then. A profile is written to `trace`, None for no profile.
        """
        self.agree = Agreement()
        self.progress, self.clock = Progress(self.first, self.train.steps, self.train.best, self._find_best), Clock()
        last = min(self.first + 5, self.train.steps)
        self._traced = range(max(self.first + 1, last - 2), last + 1) if trace else range(0)
        try:
            with explain_training(self.runs[0].config, lambda: [lane.compiled for lane in self.lanes]):
                finished = self._steps(trace)
                for run in self.runs:
                    run.checkpoints.wait()
            self.stop.finished = finished
            return finished
        finally:
            self.progress.close()
            self.loader.close()

    def is_stopping(self) -> bool:
        """Return whether any process should stop, at a request or because the time left is just enough to save all runs."""
        return self.agree(self.stop.requested(reserve=sum(run.checkpoints.longest_save for run in self.runs)))

    def evaluates_at(self, step: int) -> bool:
        """Return whether an evaluation follows the step."""
        return step == self.train.steps or step % self.train.eval_every == 0

    def saves_at(self, step: int) -> bool:
        """Return whether a checkpoint follows the step."""
        return step == self.train.steps or step % self.train.checkpoint_every == 0

    def _steps(self, trace: pathlib.Path | None) -> bool:
        """Take all steps. Returns False at a stop."""
        for step in range(self.first, self.train.steps + 1):
            under_way = [run for run in self.runs if run.first < step]
            if under_way:
                self._advance(step, under_way, trace)
                if not self._conclude(step, under_way):
                    return self._save(step, under_way)
            arriving = [run for run in self.runs if run.first == step]
            if not all(run.begin() for run in arriving):
                return self._save(step, under_way)
            if step < self.train.steps and self.is_stopping():
                return self._save(step, under_way + arriving)
        return True

    def _advance(self, step: int, under_way: Sequence[Run], trace: pathlib.Path | None) -> None:
        """Start a step of each run."""
        with self.clock.waiting():
            rows = next(self.loader)
        if step == self.first + 1:
            self._compile(rows)
        if trace and step == self._traced[0]:
            jax.profiler.start_trace(trace)
        for lane in self.lanes:
            lane.advance(step, rows)
        self.stop.nothing_to_lose = False
        for run in under_way:
            run.nonfinite.push(step, run.logs, rows["image_id"])
        if self._traced and step == self._traced[-1]:
            jax.block_until_ready([run.logs for run in under_way])
            jax.profiler.stop_trace()
            self.progress.say(f"profile of steps {self._traced[0]} to {step}: {trace}")
        self.clock.count(self.train.batch_size)

    def _compile(self, rows: dict[str, np.ndarray]) -> None:
        began = time.perf_counter()
        work = self.progress.during("compiling the training step and the evaluation", plain=True)
        with work, concurrent.futures.ThreadPoolExecutor(len(self.lanes)) as pool:
            list(pool.map(lambda lane: lane.compile(rows), self.lanes))
        self.progress.say(describe_compiled(self.lanes[0], time.perf_counter() - began))
        self.clock.restart()
        self.progress.restart()

    def _conclude(self, step: int, under_way: Sequence[Run]) -> bool:
        """Log, evaluate and save after a step of each run, where it is due. Returns False if a stop comes in between."""
        rows: list[dict] = [{} for _ in under_way]
        if step % self.train.log_every == 0 or step == self.train.steps:
            rows = [run.describe(step) for run in under_way]
            rates = self.clock.read()
            for row in rows:
                row.update({f"time/{name}": value for name, value in rates.items()})
            loss = float(np.mean([row["train/loss"] for row in rows]))
            self.progress.report(step, loss, rates["images_per_second"] * len(under_way), rates["input_wait"])
        self.progress.step()
        if self.evaluates_at(step) or self.saves_at(step):
            self._settle()
        # Every run finishes the step, also after a stop: each then keeps its row for later.
        done = [run.finish(step, row) for run, row in zip(under_way, rows, strict=True)]
        if self.evaluates_at(step):
            self.clock.restart()
        return all(done)

    def _find_best(self) -> float | None:
        """Return the best score of all runs so far, None before the first one."""
        values = [run.best.value for run in self.runs if run.best.value is not None]
        choose = min if self.runs[0].best.smaller_is_better else max
        return choose(values, default=None)

    def _settle(self) -> None:
        for lane in self.lanes:
            lane.settle()

    def _save(self, step: int, runs: Sequence[Run]) -> bool:
        """Save runs at a stop after `step`. Returns False, because they have not finished."""
        self._settle()
        for run in runs:
            run.save(step)
        return False
