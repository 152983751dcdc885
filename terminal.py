"""Progress of long work, as a live line on a terminal and as plain lines elsewhere.

The live line is at the bottom of the terminal and is drawn again in place. Lines that are printed meanwhile appear above it,
each on its own stream. `rich` is imported only where a line is drawn. Every part may import this file.
"""

import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TextIO

from wording import make_printable

EVERY = 60.0  # seconds from one plain line to the next
REDRAW = 0.2  # seconds from one drawing of a live line to the next
BAR = (6, 30)  # cells: the least and the most
BLANK = "\r\x1b[2K"  # an empty line, with the cursor at its start
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
    """A context in which the last line of a terminal shows what `describe` returns. Of several, the newest is drawn.

    The cursor stays visible: a signal may end the process at any moment.
    """

    def __init__(self, describe: Callable[[], Parts]):
        self._describe, self._ended = describe, threading.Event()

    def __enter__(self) -> "LiveLine":
        from rich.console import Console

        terminal = _SCREEN.open(self)
        self._console = Console(file=terminal, force_terminal=True, legacy_windows=False)
        self._unicode = "utf" in (terminal.encoding or "").lower()
        _SCREEN.draw()
        threading.Thread(target=self._redraw, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        _SCREEN.close(self)

    def draw(self) -> None:
        """Draw the line at the cursor."""
        from rich.text import Text

        line = compose(self._describe(), self._console.width - 1, unicode=self._unicode)
        self._console.print(Text.assemble(*line), end="", no_wrap=True, overflow="crop", highlight=False)

    def _redraw(self) -> None:
        while not self._ended.wait(REDRAW):
            _SCREEN.draw()


class _Screen:
    """The terminal, with the lines that are live. It knows whether the last printed line has ended."""

    def __init__(self):
        self.lock = threading.RLock()
        self._lines: list[LiveLine] = []
        self._in_line = False

    def open(self, line: LiveLine) -> TextIO:
        """Add a line, the newest. Returns the stream that it is drawn on."""
        with self.lock:
            if not self._lines:
                self._streams, self._in_line = (sys.stdout, sys.stderr), False
                sys.stdout, sys.stderr = map(_Above, self._streams)
            self._erase()
            self._lines.append(line)
            return self._streams[1]

    def close(self, line: LiveLine) -> None:
        """Take a line away. The one before it is drawn again."""
        with self.lock:
            self._erase()
            self._lines.remove(line)
            if not self._lines:
                sys.stdout, sys.stderr = self._streams
            self.draw()

    def draw(self) -> None:
        """Draw the newest line, unless something is being printed where it would be."""
        with self.lock:
            if self._lines and not self._in_line:
                self._streams[1].write(BLANK)
                self._lines[-1].draw()
                self._streams[1].flush()

    def write(self, stream: TextIO, text: str) -> None:
        """Write a text to a stream of the terminal, above the live line."""
        with self.lock:
            self._erase()
            stream.write(text)
            stream.flush()
            if text:
                self._in_line = not text.endswith("\n")
            self.draw()

    def _erase(self) -> None:
        if self._lines and not self._in_line:
            self._streams[1].write(BLANK)
            self._streams[1].flush()


_SCREEN = _Screen()


class _Above:
    """A stream of the terminal whose text appears above the live line."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        _SCREEN.write(self._stream, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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
