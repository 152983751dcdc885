"""What a person sees of a run: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm


class Progress:
    """Step, loss, images per second and the time left. `start` is the step a resumed run goes on from."""

    def __init__(self, start: int, total: int):
        self.start, self.total = start, total
        self.restart()
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if terminal else None

    def restart(self) -> None:
        """Measures the time left from here: what came before (compilation) does not repeat."""
        self.began = time.perf_counter()

    def step(self) -> None:
        if self.bar:
            self.bar.update()

    def report(self, step: int, loss: float, images_per_second: float) -> None:
        if self.bar:
            self.bar.set_postfix(loss=f"{loss:.4f}", images=f"{images_per_second:.1f}/s")
            return
        left = (self.total - step) * (time.perf_counter() - self.began) / max(step - self.start, 1)
        print(
            f"step {step}/{self.total}  loss {loss:.4f}  {images_per_second:.1f} images/s  {tqdm.format_interval(left)} left",
            flush=True,
        )

    def say(self, line: str) -> None:
        """A line of its own, without breaking the bar."""
        tqdm.write(line) if self.bar else print(line, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.close()


class Clock:
    """Images per second, and the share of the time spent waiting for input.

    A window runs from `restart` to `read`; what lies between a reading and the next restart (compilation, evaluation)
    counts nowhere. `total` covers all windows that were read.
    """

    def __init__(self):
        self.seconds, self.waited, self.images = 0.0, 0.0, 0
        self.restart()

    def restart(self) -> None:
        self._window = [time.perf_counter(), 0.0, 0]

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._window[1] += time.perf_counter() - began

    def count(self, images: int) -> None:
        self._window[2] += images

    def read(self) -> dict[str, float]:
        """The window that ends now; the next one begins."""
        began, waited, images = self._window
        seconds = time.perf_counter() - began
        self.seconds, self.waited, self.images = self.seconds + seconds, self.waited + waited, self.images + images
        self.restart()
        return _rates(seconds, waited, images)

    def total(self) -> dict[str, float]:
        return _rates(self.seconds, self.waited, self.images)


def _rates(seconds: float, waited: float, images: int) -> dict[str, float]:
    seconds = max(seconds, 1e-9)
    return {"images_per_second": images / seconds, "input_wait": waited / seconds}
