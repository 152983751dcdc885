"""Stop a run and save its work at SIGTERM or SIGUSR1 (from a scheduler), at Ctrl-C or after train.max_minutes.

The exit code is 0 for a finished run, UNFINISHED for a stopped run that the same command resumes, and 1 for a failure.
Imports nothing slow, because main.py handles signals before it imports anything else.
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

UNFINISHED = os.EX_TEMPFAIL  # 75, which job systems take as "try again"
STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GRACE = 5.0  # seconds for the loop to notice a stop; then a thread ends a run that has nothing to lose
STARTED = time.monotonic()  # the start of the process, after that of the interpreter


class Preemption:
    """A context manager that reports stops to the loop. The loop asks `requested`, then saves and returns.

    While XLA compiles, Python runs no signal handler, and a scheduler may allow less time than a compilation takes. A thread
    therefore receives the signal through a pipe. If `nothing_to_lose` still holds after GRACE seconds, the thread ends the
    process. It does the same when max_minutes are over.
    """

    def __init__(self, max_minutes: float = 0.0):
        """Set the time limit, in minutes since the start of the process. 0 means no limit."""
        self.max_minutes = max_minutes
        self.signal: int | None = None
        self.nothing_to_lose = True
        self.finished = False  # set by the loop once the last step is on disk; later stops do not change the exit code

    def requested(self, reserve: float = 0.0) -> bool:
        """Return whether to stop now. The time limit comes earlier by `reserve`, the seconds that saving takes."""
        return self.signal is not None or self._seconds_left() <= reserve

    @property
    def cause(self) -> str:
        """The cause of a requested stop, as text."""
        if self.signal is not None:
            return "stopped"
        return (
            f"stopped by train.max_minutes={self.max_minutes:g}"
            if self.max_minutes
            else "stopped with the other processes"
        )

    @property
    def exit_code(self) -> int:
        """The exit code after the loop has returned, 0 or UNFINISHED."""
        return 0 if self.finished else UNFINISHED

    def __enter__(self) -> "Preemption":
        self._earlier_pipe = _hear(self._listen)
        self._earlier = {number: signal.signal(number, self._handle) for number in STOPS}
        return self

    def __exit__(self, error_type, error, trace) -> None:
        if error is not None and self.signal is not None and self.nothing_to_lose:
            self._end()  # a child process may have died of the same signal, which is not a failure of the run
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
        if first is None:  # the time was up before a stop came; the handler may have set this already
            self.signal = _next_signal(read, math.inf)
        self._end_at_ctrl_c(read, math.inf)

    def _end_at_ctrl_c(self, read: int, seconds: float) -> None:
        """Let a Ctrl-C after the first stop end the process for so many seconds. The newest checkpoint stays valid.

        An exception instead could be raised anywhere, and be lost where Python ignores exceptions.
        """
        end = time.monotonic() + seconds
        while (number := _next_signal(read, end - time.monotonic())) is not None:
            if number == signal.SIGINT:
                os.write(2, b"stopped: start the same command again\n")
                os._exit(self.exit_code)

    def _end(self) -> None:
        remedy = "start the same command again" + ("" if self.signal is not None else ", with more minutes")
        print(f"{self.cause} before the first step, with nothing to save; {remedy}", flush=True)
        os._exit(UNFINISHED)

    def _seconds_left(self) -> float:
        return STARTED + 60 * self.max_minutes - time.monotonic() if self.max_minutes else math.inf


def exit_at_once(code: int = UNFINISHED) -> None:
    """Make every later stop end the process at once with `code`. Call this when there is nothing left to save."""

    def end(read: int) -> None:
        os.read(read, 1)
        if code == UNFINISHED:
            os.write(2, b"stopped: start the same command again\n")
        os._exit(code)

    sys.stdout.flush()  # os._exit does not flush it
    atexit.register(_ignore_stops)
    _hear(end)  # before the handlers are set, so that no stop in between is lost
    for number in STOPS:
        signal.signal(number, lambda *_: None)  # the thread acts, even while Python runs no handler


def _ignore_stops() -> None:
    """Ignore stops while the interpreter ends. It removes its handlers, and a stop would then kill it."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def _next_signal(read: int, seconds: float) -> int | None:
    """Wait for a signal's number from the pipe of `_hear`, and return it. Returns None if none comes in time."""
    longest = None if math.isinf(seconds) else min(max(seconds, 0.0), 1e9)
    return os.read(read, 1)[0] if select.select([read], [], [], longest)[0] else None


def _hear(listen: Callable[[int], None]) -> int:
    """Call `listen` in a thread, with the reading end of a pipe that receives the number of each signal at once.

    Returns the writing end of the pipe that received them before.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    earlier = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=listen, args=(read,), daemon=True).start()
    return earlier
