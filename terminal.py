"""Progress of long work, as a live line on a terminal and as plain lines elsewhere.

`rich` is imported only where a live line is drawn. Every part may import this file.
"""

import functools
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from wording import make_printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

EVERY = 60.0  # seconds from one plain line to the next
REDRAWS = 5  # drawings of a live line in a second
BAR = (6, 30)  # cells: the least and the most
Parts = tuple[float, Sequence[str]]  # the share that is done, and the words, the most important ones first


def can_draw() -> bool:
    """Return whether a line can be drawn in place. Both stdout and stderr must be terminals, and not dumb ones."""
    return sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def format_time(seconds: float) -> str:
    """Format a time as `5:07` or `1:02:03`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def compose(parts: Parts, width: int, *, unicode: bool = True) -> list[tuple[str, str]]:
    """Compose a line of at most `width` cells, as pairs of a text and its style.

    A bar follows the first words where there is room. Words for which there is no room are left out, the last ones first.
    """
    from rich.cells import cell_len, set_cell_size

    share, words = parts[0], [make_printable(part) for part in parts[1]]
    while len(words) > 1 and cell_len("  ".join(words)) > width:
        words.pop()
    if cell_len(words[0]) > width:
        return [(set_cell_size(words[0], width), "")]
    bar = []
    cells = min(width - cell_len("  ".join(words)) - 2, BAR[1])
    if cells >= BAR[0]:
        full, empty = "━─" if unicode else "#-"
        done = round(cells * min(max(share, 0.0), 1.0))
        bar = [("  ", ""), (full * done, "green"), (empty * (cells - done), "dim")]
    return [(words[0], ""), *bar, ("".join(f"  {part}" for part in words[1:]), "")]


class LiveLine:
    """A context in which the last line of a terminal shows what `describe` returns. Several are drawn below each other.

    Text that is printed meanwhile appears above it. The cursor stays visible, for a signal may end the process at any moment.
    """

    def __init__(self, describe: Callable[[], Parts]):
        self._describe = describe

    def __enter__(self) -> "LiveLine":
        from rich.live import Live

        self._console = _open_console()
        self._unicode = "utf" in self._console.encoding.lower()
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=REDRAWS, transient=True)
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _draw(self) -> "Text":
        from rich.text import Text

        line = compose(self._describe(), self._console.width - 1, unicode=self._unicode)
        return Text.assemble(*line, no_wrap=True, overflow="crop", end="")


@functools.cache
def _open_console() -> "Console":
    """Return the console of all live lines, on which text is neither markup nor wrapped, so that paths stay whole."""
    from rich.console import Console

    class Plain(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return Plain(file=sys.stderr, soft_wrap=True, markup=False, emoji=False, highlight=False, legacy_windows=False)


class Count:
    """A context that shows how many images are done.

    It draws a live line on a terminal. Elsewhere it prints a line after the first images and then every minute.
    """

    def __init__(self, title: str, total: int, done: int = 0):
        """Begin at `done` of `total` images. `title` names what is made of them, such as "proposals"."""
        self._title, self._total, self._first, self._done = title, total, done, done
        self._began, self._next = time.monotonic(), 0.0
        self._line = LiveLine(self._describe) if can_draw() else None

    def __enter__(self) -> "Count":
        if self._line:
            self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line:
            self._line.__exit__(kind, error, trace)

    def add(self, count: int = 1) -> None:
        """Count images that are done."""
        self._done += count
        if self._line is None and self._done < self._total and time.monotonic() >= self._next:
            print(make_printable("  ".join(self._describe()[1])), flush=True)
            self._next = time.monotonic() + EVERY

    def _describe(self) -> Parts:
        words, seconds = [f"{self._title} of {self._done}/{self._total} images"], time.monotonic() - self._began
        if self._done > self._first:
            left = (self._total - self._done) * seconds / (self._done - self._first)
            words += [f"{format_time(left)} left"]
        return self._done / max(self._total, 1), words


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and texts in two columns on stdout. On a terminal long texts are wrapped, and the names are bold."""
    rows = list(rows)
    first = max(len(name) for name, _ in rows) + 2
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else sys.maxsize
    bold, normal = ("\x1b[1m", "\x1b[0m") if can_draw() else ("", "")
    for name, text in rows:
        # Paths stay whole, to be copied.
        lines = textwrap.wrap(
            make_printable(text), max(width - first, 16), break_long_words=False, break_on_hyphens=False
        )
        print(f"{bold}{name:{first}}{normal}" + f"\n{'':{first}}".join(lines))
    sys.stdout.flush()
