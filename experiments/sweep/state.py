"""What a run directory says about its run: how far it is, its score, and whether it is done.

A run is done when its last row is that of its last step, with the scores of the evaluation, and the checkpoint of that step is
there. No exit code says so.

    python -m experiments.sweep.state WORKDIR       exits with 0 if the run is done, with 75 if it is not
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all, for the imports take their time

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
    """A run as its directory shows it at the last `refresh`. A directory that is not there is a run that has not begun."""

    def __init__(self, workdir: pathlib.Path, steps: int, metric: str):
        """`steps` is the run's config.train.steps, `metric` the score in config.train.best."""
        self.workdir, self.steps, self.metric = workdir, steps, metric
        self._forget()
        self.refresh()

    def refresh(self) -> None:
        """Read the rows that are new since the last call, or all of them after a resume has cut the file."""
        path = self.workdir / "metrics.jsonl"
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
        if found.st_size > self._read:
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
        """The step that a start would go on from, -1 before the first checkpoint."""
        return max(self._checkpoints("last"), default=-1)

    @property
    def kept(self) -> tuple[int, int]:
        """What a start would go on from, larger the farther the run is: its step, and files of stored features."""
        return self.saved, len(list((self.workdir / "features").glob("*.npz")))

    @property
    def done(self) -> bool:
        scored = any(name.startswith("val/") for name in self._last)
        return self.step == self.steps and scored and self.steps in self._checkpoints("last")

    @property
    def scores(self) -> dict[int, float | None]:
        """The metric by step, None where it was undefined."""
        return dict(self._scores)

    @property
    def last(self) -> float | None:
        """The newest value of the metric."""
        return next(reversed(self._scores.values()), None)

    @property
    def best(self) -> tuple[int, float] | None:
        """The step of the best checkpoint, and the metric there."""
        step = max(self._checkpoints("best"), default=None)
        value = self._scores.get(step)
        return None if value is None else (step, value)

    @property
    def seconds(self) -> float:
        """How long the run has trained, over all of its starts, until its newest checkpoint."""
        try:
            return measure_seconds(read_sessions(self.workdir / "evidence.json")) or 0.0
        except UserError:
            return 0.0  # the run itself reports it when it resumes

    def _checkpoints(self, kind: str) -> list[int]:
        """Step of the whole checkpoints; one that is being written has another name."""
        folder = self.workdir / "checkpoints" / kind
        return [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def read_state(workdir: pathlib.Path) -> State:
    """Return the state of the run in `workdir`, by its own config. Raise UserError where there is none."""
    try:
        train = read_json(workdir / "config.json").get("train")
    except FileNotFoundError:
        raise UserError(f"{workdir} holds no run that has started") from None
    if not isinstance(train, dict) or type(train.get("steps")) is not int or not isinstance(train.get("best"), str):
        raise UserError(f"{workdir / 'config.json'} does not hold the config of a run; {REMEDY}")
    return State(workdir, train["steps"], train["best"])


def in_use(workdir: pathlib.Path) -> bool:
    """Return whether a process trains in `workdir`, whoever started it."""
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
    parser = argparse.ArgumentParser(description="Exit with 0 if a run is done, with 75 if it is not.")
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
