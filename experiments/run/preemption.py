"""Stopping when asked to, with the work saved: by SIGTERM and SIGUSR1 (a scheduler's notices), Ctrl-C or train.max_minutes.

The exit code says what became of the run: 0 when it is finished, UNFINISHED when it stopped and the same command goes on
from what is saved, 1 when it failed. Imports nothing slow: main.py handles signals before it imports anything else.
"""

import atexit
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable

UNFINISHED = os.EX_TEMPFAIL  # 75: job systems know it as "try again"
STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GRACE = 5.0  # seconds that the loop has to notice, before a run that has nothing to lose is ended from outside it
STARTED = time.monotonic()  # the start of the process, but for the interpreter's own


class Preemption:
    """Context manager. Of a stop the loop hears by `requested`; it saves and returns.

    While XLA compiles, Python runs no signal handler, and the notice may be shorter than a compilation. A thread therefore
    hears of the signal through a pipe and, if `nothing_to_lose` still holds after GRACE seconds, ends the process itself.
    It does so too when max_minutes are over.
    """

    def __init__(self, max_minutes: float = 0.0):
        """`max_minutes` since the start of the process are a stop, too; 0 is no limit."""
        self.max_minutes = max_minutes
        self.signal: int | None = None
        self.nothing_to_lose = True
        self.finished = False  # the loop sets it when the last step is on disk: no later stop changes the exit code

    def requested(self, reserve: float = 0.0) -> bool:
        """Return whether to stop now. `reserve`: the seconds that saving takes, which the time limit leaves for it."""
        return self.signal is not None or self._seconds_left() <= reserve

    @property
    def cause(self) -> str:
        """What to say of a stop that was requested."""
        if self.signal is not None:
            return "stopped"
        return (
            f"stopped by train.max_minutes={self.max_minutes:g}"
            if self.max_minutes
            else "stopped with the other processes"
        )

    @property
    def exit_code(self) -> int:
        """0 or UNFINISHED, once the loop has returned."""
        return 0 if self.finished else UNFINISHED

    def __enter__(self) -> "Preemption":
        self._earlier_pipe = _hear(self._listen)
        self._earlier = {number: signal.signal(number, self._handle) for number in STOPS}
        return self

    def __exit__(self, error_type, error, trace) -> None:
        if error is not None and self.signal is not None and self.nothing_to_lose:
            self._end()  # a helper's process may have heard the same signal: its end is no failure of the run
        signal.set_wakeup_fd(self._earlier_pipe)
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        if self.finished:
            exit_at_once(self.exit_code)

    def _handle(self, number: int, _frame) -> None:
        self.signal = number

    def _listen(self, read: int) -> None:
        first = _next_signal(read, self._seconds_left())
        if first is not None:
            self.signal = first
            self._end_at_ctrl_c(read, GRACE)
        if self.nothing_to_lose and not self.finished:
            self._end()
        if first is None:  # the time was up before a stop came; the handler may have noted this one already
            self.signal = _next_signal(read, math.inf)
        self._end_at_ctrl_c(read, math.inf)

    def _end_at_ctrl_c(self, read: int, seconds: float) -> None:
        """For so long, let a Ctrl-C after the first stop end the process: the newest checkpoint stands.

        An exception could be raised anywhere instead, and get lost where Python ignores exceptions.
        """
        end = time.monotonic() + seconds
        while (number := _next_signal(read, end - time.monotonic())) is not None:
            if number == signal.SIGINT:
                os.write(2, b"stopped: start the same command again\n")
                os._exit(self.exit_code)

    def _end(self) -> None:
        remedy = "start the same command again" + ("" if self.signal is not None else ", with more minutes")
        print(f"{self.cause} before the first step: nothing to save, {remedy}", flush=True)
        os._exit(UNFINISHED)

    def _seconds_left(self) -> float:
        return STARTED + 60 * self.max_minutes - time.monotonic() if self.max_minutes else math.inf


def exit_at_once(code: int = UNFINISHED) -> None:
    """Make every stop from now on end the process at once with `code`: there is nothing to save, or not any more."""

    def end(read: int) -> None:
        os.read(read, 1)
        if code == UNFINISHED:
            os.write(sys.__stderr__.fileno(), b"stopped: start the same command again\n")
        os._exit(code)

    sys.stdout.flush()  # the end is too sudden for it
    atexit.register(_ignore_stops)
    _hear(end)  # before the handlers, which would lose a stop that comes in between
    for number in STOPS:
        signal.signal(number, lambda *_: None)  # the thread acts, even where Python runs no handler


def _ignore_stops() -> None:
    """Let a stop that comes while the interpreter ends change nothing: it takes its handlers away, and would die of it."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def _next_signal(read: int, seconds: float) -> int | None:
    """Wait for the number of a signal from the pipe of `_hear`. Returns None where none comes in time."""
    longest = None if math.isinf(seconds) else min(max(seconds, 0.0), 1e9)
    return os.read(read, 1)[0] if select.select([read], [], [], longest)[0] else None


def _hear(listen: Callable[[int], None]) -> int:
    """Call `listen` in a thread with a pipe that gets the number of each signal, as soon as the kernel delivers it.

    Returns the end for writing of the pipe that got them before.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    earlier = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=listen, args=(read,), daemon=True).start()
    return earlier
