"""Stopping when asked to: SIGTERM (a scheduler's notice) and Ctrl-C end a run with its work saved."""

import os
import signal
import threading
import time

GRACE = 5.0  # seconds that the loop has to notice, before a run that has nothing to lose is ended from outside it


class Preemption:
    """Context manager. After SIGTERM or SIGINT `signal` is its number; the loop saves and returns at its next check.

    While XLA compiles, Python runs no signal handler, and the notice may be shorter than a compilation. A thread therefore
    hears of the signal through a pipe and, if `nothing_to_lose` still holds after GRACE seconds, ends the process itself.
    """

    def __init__(self):
        self.signal: int | None = None
        self.nothing_to_lose = True

    @property
    def exit_code(self) -> int:
        return _exit_code(self.signal)

    def __enter__(self) -> "Preemption":
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._earlier = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        threading.Thread(target=self._listen, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    def _listen(self, read: int) -> None:
        (number,) = os.read(read, 1)
        time.sleep(GRACE)
        if self.nothing_to_lose:
            print("stopped before the first step: nothing to save", flush=True)
            os._exit(_exit_code(number))


def exit_at_once(number: int, _frame) -> None:
    """End the process: the signal handler of one that has nothing to save yet."""
    os._exit(_exit_code(number))


def _exit_code(number: int | None) -> int:
    """0 for SIGTERM: a preempted run has not failed. 130 for Ctrl-C, as in shells."""
    return 130 if number == signal.SIGINT else 0
