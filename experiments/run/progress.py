"""The progress of a run, as a live line on a terminal and as plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from errors import print_lines
from experiments.run.tables import format_score
from terminal import LiveLine, Parts, can_draw, format_time


class Progress:
    """The step, the loss, the best score, images per second, the wait for input and the time left.

    `start` is the step that a resumed run goes on from. `best` returns the best value of `score` so far, None before the first.
    """

    def __init__(self, start: int, total: int, score: str, best: Callable[[], float | None]):
        self.total, self._start, self._score, self._best = total, start, score, best
        self._step, self._loss, self._rates, self._bound = start, "", "", ""
        self._doing, self._since = "", 0.0
        self.restart()
        self._line = LiveLine(self._describe) if can_draw() else None
        if self._line:
            self._line.__enter__()

    def restart(self) -> None:
        """Estimate the time left from now on. Earlier work, such as the compilation, does not repeat."""
        self._began = time.perf_counter()

    def step(self) -> None:
        """Count one more step."""
        self._step += 1

    def report(self, step: int, loss: float, images_per_second: float, input_wait: float) -> None:
        """Show what was measured until `step`. `input_wait` is a share of the time, 0 to 1."""
        self._loss = f"loss {loss:.4f}"
        self._rates = f"{images_per_second:.{0 if images_per_second >= 100 else 1}f} images/s"
        self._bound = f"input-bound {100 * input_wait:.0f} %"
        if self._line is None:
            best = self._write_best(f"best {self._score}")
            words = [f"step {step}/{self.total}", self._loss, best, self._rates, self._bound, self._write_left(step)]
            print("  ".join(filter(None, words)), flush=True)

    @contextlib.contextmanager
    def during(self, work: str, *, plain: bool = False) -> Iterator[None]:
        """Show what is done instead of steps until the context ends, on a live line with the time that it takes.

        Elsewhere a line is printed at the beginning, where `plain` asks for it.
        """
        if plain and self._line is None:
            print_lines(work)
        self._doing, self._since = work, time.perf_counter()
        try:
            yield
        finally:
            self._doing = ""

    def say(self, line: str) -> None:
        """Print a line of its own."""
        print_lines(line)

    def close(self) -> None:
        """Take the live line away."""
        if self._line:
            self._line.__exit__(None, None, None)

    def _describe(self) -> Parts:
        words, doing = [f"{self._step}/{self.total}"], self._doing
        if doing:
            words.append(f"{doing} {format_time(time.perf_counter() - self._since)}")
        elif self._loss:
            best = self._write_best("best")
            words += [self._write_left(self._step), self._loss, best, self._rates, self._bound]
        return self._step / max(self.total, 1), list(filter(None, words))

    def _write_left(self, step: int) -> str:
        seconds = time.perf_counter() - self._began
        return f"{format_time((self.total - step) * seconds / max(step - self._start, 1))} left"

    def _write_best(self, title: str) -> str:
        value = self._best()
        return "" if value is None else f"{title} {format_score(value)}"


class Clock:
    """Images per second, and the share of the time spent waiting for input.

    A window runs from `restart` to `read`. The time between a reading and the next restart (compilation, evaluation) counts
    nowhere.
    """

    def __init__(self):
        self.seconds, self.waited, self.images = 0.0, 0.0, 0
        self.restart()

    def restart(self) -> None:
        """Begin a window."""
        self._began, self._waited, self._images = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in the context as a wait for input."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def count(self, images: int) -> None:
        """Count the images of a step."""
        self._images += images

    def read(self) -> dict[str, float]:
        """End the window, and begin the next one. Returns the rates of the one that ended."""
        seconds, waited, images = time.perf_counter() - self._began, self._waited, self._images
        self.seconds, self.waited, self.images = self.seconds + seconds, self.waited + waited, self.images + images
        self.restart()
        return _rates(seconds, waited, images)

    def total(self) -> dict[str, float]:
        """Return the rates over all windows that were read."""
        return _rates(self.seconds, self.waited, self.images)


def _rates(seconds: float, waited: float, images: int) -> dict[str, float]:
    seconds = max(seconds, 1e-9)
    return {"images_per_second": images / seconds, "input_wait": waited / seconds}
