"""The display of a running sweep, a live table on a terminal and lines elsewhere."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.sweep.launch import Phase, Progress
from experiments.sweep.summary import HEADER, describe, write_time

LINE_SECONDS = 60.0  # between two lines about the same run, without a terminal
REDRAW_SECONDS = 1.0
ORDER = (Phase.FAILED, Phase.RUNNING, Phase.IN_USE, Phase.NOT_STARTED, Phase.STOPPED, Phase.WAITING)
ORDER += (Phase.PRUNED, Phase.DONE)
COLOURS = {Phase.FAILED: "red", Phase.RUNNING: "green", Phase.NOT_STARTED: "red", Phase.DONE: "bold"}


class View:
    """A display in lines, one for each change of a run and one each LINE_SECONDS for each running run."""

    def __init__(self, runs: Sequence[Progress]):
        self.runs = runs
        self._said = dict.fromkeys(map(id, runs), time.monotonic())
        self.say(count(runs))

    def update(self) -> None:
        """Show the progress of the runs whose last line is old enough."""
        for run in self.runs:
            if run.phase is Phase.RUNNING and time.monotonic() - self._said[id(run)] >= LINE_SECONDS:
                self._report(run)

    def changed(self, run: Progress) -> None:
        """Show the new phase of a run."""
        self._report(run)

    def say(self, line: str) -> None:
        """Show a separate line."""
        print(line, flush=True)

    def _report(self, run: Progress) -> None:
        self._said[id(run)] = time.monotonic()
        _, phase, step, metric, best, last, _ = describe(run)
        words = [f"{run.job.label}: {phase}", run.note, f"step {step}"]
        words += [f"{metric} {last} (best {best})"] if last != "-" else []
        words += [f"{write_time(run.seconds_left)} left"] if run.seconds_left is not None else []
        self.say(", ".join(filter(None, words)))


class LiveView(View):
    """A table that is drawn again each second, with failed and running runs at its top."""

    def __init__(self, runs: Sequence[Progress], live: Live):
        self.live, self._drawn = live, 0.0
        super().__init__(runs)
        self._draw()

    def update(self) -> None:
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def changed(self, run: Progress) -> None:
        if run.phase is Phase.FAILED:
            self.say(f"{run.job.label}: failed: {run.note}")
        self._draw()

    def say(self, line: str) -> None:
        self.live.console.print(line, markup=False, highlight=False)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        table = Table(*HEADER[:-1], "left", title=count(self.runs), title_justify="left", box=None)
        for run in sorted(self.runs, key=lambda run: ORDER.index(run.phase)):
            name, phase, *cells, _ = describe(run)
            if run.phase is not Phase.RUNNING and run.note:
                phase = f"{phase} {run.note}" if run.phase is Phase.WAITING else phase
            table.add_row(name, phase, *cells, write_time(run.seconds_left), style=COLOURS.get(run.phase))
        self.live.update(table, refresh=True)


def count(runs: Sequence[Progress]) -> str:
    """Return the number of runs in each phase, as text."""
    phases = Counter(run.phase for run in runs)
    words = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    parts = ", ".join(f"{phases[phase]} {phase.value}" for phase in Phase if phases[phase])
    return ": ".join(filter(None, [words, parts]))


@contextlib.contextmanager
def open_view(runs: Sequence[Progress]) -> Iterator[View]:
    """Show the runs while the context lasts."""
    if not sys.stdout.isatty():
        yield View(runs)
        return
    with Live(console=Console(), auto_refresh=False, transient=True) as live:
        yield LiveView(runs, live)
