"""Runs a program in this process's place, and lets it live no longer than the launcher that started it.

    python -P experiments/run/child.py LAUNCHER PIPE PROGRAM [ARGUMENT ...]

However the launcher ends, SIGKILL included, the program is killed at once, so that no lock outlives it; a run resumes from
its newest checkpoint. LAUNCHER is the launcher's process id. On Linux the kernel sees to it. Elsewhere a thread reads from
PIPE, a file descriptor whose other end the launcher alone holds: it ends when the launcher does. Imports nothing of ours.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # first of all: the launcher says what a Ctrl-C at this moment is

import ctypes
import os
import runpy
import sys
import threading

PR_SET_PDEATHSIG = 1  # of linux/prctl.h; it stays set over an exec


def main(launcher: int, pipe: int, program: str, arguments: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            sys.exit("the launcher has ended")  # before the line above
        os.execv(sys.executable, [sys.executable, program, *arguments])
    run_beside(pipe, program, arguments)


def run_beside(pipe: int, program: str, arguments: list[str]) -> None:
    """Runs the program beside a thread that kills this process when the pipe ends."""
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    sys.argv[:] = [program, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    runpy.run_path(program, run_name="__main__")


def _watch(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
