"""Stopping when asked to: SIGTERM (a scheduler's notice) and Ctrl-C end a run with its work saved."""

import os
import signal
import threading

GRACE = 5.0  # seconds that the loop has to notice, before a run that has nothing to lose is ended from outside it


class Preemption:
    """Context manager. After SIGTERM or SIGINT `signal` is its number; the loop saves and returns at its next look.

    While XLA compiles, Python runs no signal handler, and the notice may be shorter than a compilation. A thread
    therefore hears of the signal through a pipe and, as long as `nothing_to_lose` is set, ends the process itself.
    """

    def __init__(self):
        self.signal: int | None = None
        self.nothing_to_lose = True
        self._heard = threading.Event()

    @property
    def exit_code(self) -> int:
        """0 for SIGTERM: a preempted run did nothing wrong. 130 for Ctrl-C, as shells have it."""
        return 130 if self.signal == signal.SIGINT else 0

    def __enter__(self) -> "Preemption":
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        threading.Thread(target=self._listen, args=(read,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, _frame) -> None:
        self._heard.set()
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    def _listen(self, read: int) -> None:
        os.read(read, 1)
        if not self._heard.wait(GRACE) and self.nothing_to_lose:
            print("stopped while compiling: nothing to save", flush=True)
            os._exit(0)
