"""What every executor of a sweep is given, and what it says of a run."""

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
    """A sweep to be carried out. An executor is a function of it that returns the exit code."""

    jobs: Sequence[Job]  # each after the one that it starts from
    workdir: pathlib.Path
    at_a_time: int | None  # how many runs; None: as many as there are devices
    program: pathlib.Path = MAIN  # that trains a run
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)  # slurm: those of sbatch


@dataclasses.dataclass(frozen=True)
class Search:
    """A search to be carried out: runs whose values are drawn one after another, from what the earlier ones have come to."""

    config: str  # as after --config= on a command line
    overrides: Mapping[str, str]  # fields that the command line sets for all runs
    workdir: pathlib.Path
    trials: int  # how many runs there are to be in all
    seed: int
    at_a_time: int | None  # how many runs; None: as many as there are devices
    data_dir: str | None
    program: pathlib.Path = MAIN  # that trains a run
    resolve: Callable[[dict], dict] = resolution.ask


class Phase(enum.Enum):
    WAITING = "waiting"  # for a free device, or for the run that it starts from
    QUEUED = "queued"  # or running, as a job of a cluster
    RUNNING = "running"
    IN_USE = "in use"  # by a process that this launcher has not started
    STOPPED = "stopped"
    PRUNED = "pruned"  # a trial of a search that was worse than others at the same step
    FAILED = "failed"
    NOT_STARTED = "not started"  # what it starts from has failed
    DONE = "done"


class Progress:
    """One run of a sweep while it is carried out."""

    def __init__(self, job: Job):
        self.job, self.phase, self.note = job, Phase.WAITING, ""
        self.state = State(job.workdir, job.config["train.steps"], job.config["train.best"])
        if self.state.done:
            self.phase = Phase.DONE
        self._clock: tuple[float, int] | None = None

    def begin(self) -> None:
        """Report that the run is started now."""
        self.phase, self.note, self._clock = Phase.RUNNING, "", None

    def refresh(self) -> None:
        """Read what the run has written. The time left is measured from its first new row: compilation does not repeat."""
        before = self.state.step
        self.state.refresh()
        if self._clock is None and self.state.step > before:
            self._clock = (time.monotonic(), self.state.step)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until its last step, at the speed since the start; None where that is not known."""
        if self.phase is not Phase.RUNNING or self._clock is None or self.state.step <= self._clock[1]:
            return None
        began, first = self._clock
        return (self.state.steps - self.state.step) * (time.monotonic() - began) / (self.state.step - first)
