"""The state of a run as its directory shows it, with its last step, its score and whether it is done.

A run is done if its last row belongs to its last step and has the scores of the evaluation, and the checkpoint of that step
exists. Exit codes do not matter.

    python -m experiments.sweep.state WORKDIR       exits with 0 if the run is done, else with 75
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import contextlib
import fcntl
import pathlib
import stat
import sys

from errors import UserError
from experiments.run.metrics_file import parse_row
from experiments.run.preemption import UNFINISHED
from experiments.run.sessions import measure_seconds, read_sessions
from files import REMEDY, read_json


class State:
    """A run as its directory showed it at the last `refresh`. Without a directory the run has not begun."""

    def __init__(self, workdir: pathlib.Path, steps: int, metric: str):
        """Read the directory. `steps` is the run's config.train.steps, `metric` is config.train.best."""
        self.workdir, self.steps, self.metric = workdir, steps, metric
        self._forget()
        self.refresh()

    def refresh(self) -> None:
        """Read the new rows since the last call, or all rows after a resume has cut the file."""
        path, new = self.workdir / "metrics.jsonl", b""
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                return  # the run itself reports it
            if found.st_ino != self._inode or found.st_size < self._read:
                self._forget()
                self._inode = found.st_ino
            if found.st_size > self._read:
                with open(path, "rb") as file:
                    file.seek(self._read)
                    new = file.read()
        except FileNotFoundError:
            self._forget()
            return
        self._take(path, new[: new.rfind(b"\n") + 1])

    def _forget(self) -> None:
        self._inode, self._read, self._last, self._after = 0, 0, {"step": 0}, -1
        self._scores: dict[int, float | None] = {}

    def _take(self, path: pathlib.Path, lines: bytes) -> None:
        for line in lines.splitlines():
            try:
                self._last = parse_row(path, 0, line, after=self._after)
            except UserError:
                return  # the run itself reports it when it resumes
            self._after = self._last["step"]
            if isinstance(score := self._last.get(self.metric, ""), int | float | None):
                self._scores[self._last["step"]] = score
        self._read += len(lines)

    @property
    def step(self) -> int:
        """The step of the last row."""
        return self._last["step"]

    @property
    def saved(self) -> int:
        """The step from which the run would resume, -1 before the first checkpoint."""
        return max(self._checkpoints("last"), default=-1)

    @property
    def kept(self) -> tuple[int, int]:
        """The saved progress of the run, its step and the number of its feature files. It grows as the run proceeds."""
        return self.saved, len(list((self.workdir / "features").glob("*.npz")))

    @property
    def done(self) -> bool:
        scored = any(name.startswith("val/") for name in self._last)
        return self.step == self.steps and scored and self.steps in self._checkpoints("last")

    @property
    def scores(self) -> dict[int, float | None]:
        """The metric by step, None for undefined values."""
        return dict(self._scores)

    @property
    def last(self) -> float | None:
        """The newest value of the metric."""
        return next(reversed(self._scores.values()), None)

    @property
    def best(self) -> tuple[int, float] | None:
        """The step of the best checkpoint and its metric."""
        step = max(self._checkpoints("best"), default=-1)
        value = self._scores.get(step)
        return None if value is None else (step, value)

    @property
    def seconds(self) -> float:
        """The training time until the newest checkpoint, over all starts of the run."""
        try:
            return measure_seconds(read_sessions(self.workdir / "evidence.json")) or 0.0
        except UserError:
            return 0.0  # the run itself reports it when it resumes

    def _checkpoints(self, kind: str) -> list[int]:
        """Return the steps of the complete checkpoints. An incomplete one has another name."""
        folder = self.workdir / "checkpoints" / kind
        return [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def read_state(workdir: pathlib.Path) -> State:
    """Return the state of the run in `workdir`. Raise UserError if the directory has no valid config."""
    try:
        train = read_json(workdir / "config.json").get("train")
    except FileNotFoundError:
        raise UserError(f"{workdir} has no config.json, so no run has started there; check the path") from None
    if not isinstance(train, dict) or type(train.get("steps")) is not int or not isinstance(train.get("best"), str):
        raise UserError(f"{workdir / 'config.json'} does not hold the config of a run; {REMEDY}")
    return State(workdir, train["steps"], train["best"])


def in_use(workdir: pathlib.Path) -> bool:
    """Return whether a process trains in `workdir`, of this launcher or another one."""
    place = workdir / ".lock"
    if not place.is_file():
        return False
    with contextlib.suppress(FileNotFoundError), open(place, "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description="Exit with 0 if a run is done, else with 75.")
    parser.add_argument("workdir", type=pathlib.Path)
    workdir = parser.parse_args().workdir
    try:
        state = read_state(workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNFINISHED
    print(f"{workdir}: step {state.step} of {state.steps}, {'done' if state.done else 'not done'}")
    return 0 if state.done else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
