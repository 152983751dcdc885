"""The input of every executor of a sweep, and the progress that it reports of a run."""

import dataclasses
import enum
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence

from experiments.run import resolution
from experiments.sweep.plan import Job
from experiments.sweep.state import State

MAIN = pathlib.Path(__file__).parents[2] / "main.py"


@dataclasses.dataclass(frozen=True)
class Launch:
    """A sweep to run. An executor is a function that takes it and returns the exit code."""

    jobs: Sequence[Job]  # each after the one that it starts from
    workdir: pathlib.Path
    at_a_time: int | None  # runs at the same time; None: one per device
    program: pathlib.Path = MAIN  # trains a run
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of sbatch, for SLURM alone


@dataclasses.dataclass(frozen=True)
class Search:
    """A search to run. The values of each run are drawn from the results of the earlier ones."""

    config: str  # the value of --config
    overrides: Mapping[str, str]  # fields that the command line sets for all runs
    workdir: pathlib.Path
    trials: int  # the total number of runs
    seed: int
    at_a_time: int | None  # runs at the same time; None: one per device
    data_dir: str | None
    program: pathlib.Path = MAIN  # trains a run
    resolve: Callable[[dict], dict] = resolution.ask


class Phase(enum.Enum):
    WAITING = "waiting"  # for a free device, or for the run that it starts from
    QUEUED = "queued"  # or running, as a job of a cluster
    RUNNING = "running"
    IN_USE = "in use"  # by a process of another launcher
    STOPPED = "stopped"
    PRUNED = "pruned"  # a trial that was worse than others at the same step
    FAILED = "failed"
    NOT_STARTED = "not started"  # the run that it starts from has failed
    DONE = "done"


class Progress:
    """One run of a sweep, with its phase and the state that its directory shows."""

    def __init__(self, job: Job):
        self.job, self.phase, self.note = job, Phase.WAITING, ""
        self.state = State(job.workdir, job.config["train.steps"], job.config["train.best"])
        if self.state.done:
            self.phase = Phase.DONE
        self._clock: tuple[float, int] | None = None

    def begin(self) -> None:
        """Note that the run starts now."""
        self.phase, self.note, self._clock = Phase.RUNNING, "", None

    def refresh(self) -> None:
        """Read the files of the run.

        The time left is measured from the first new row on, so that it does not count the compilation again.
        """
        before = self.state.step
        self.state.refresh()
        if self._clock is None and self.state.step > before:
            self._clock = (time.monotonic(), self.state.step)

    @property
    def seconds_left(self) -> float | None:
        """The seconds until the last step at the speed since the start, or None if unknown."""
        if self.phase is not Phase.RUNNING or self._clock is None or self.state.step <= self._clock[1]:
            return None
        began, first = self._clock
        return (self.state.steps - self.state.step) * (time.monotonic() - began) / (self.state.step - first)
