"""Run a program in place of this process, and kill it when the launcher that started it ends.

    python -P experiments/run/child.py LAUNCHER PIPE PROGRAM [ARGUMENT ...]

However the launcher ends, even by SIGKILL, the program is killed at once. No lock outlives the launcher, and a run resumes
from its newest checkpoint. LAUNCHER is the launcher's process id. On Linux the kernel kills the program. Elsewhere a thread
reads from PIPE, a file descriptor. Only the launcher holds the other end, so the pipe ends when the launcher does. This file
imports nothing of this project.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # first of all: a Ctrl-C at this moment is reported by the launcher

import ctypes
import os
import runpy
import sys
import threading

PR_SET_PDEATHSIG = 1  # from linux/prctl.h; it stays set across an exec


def main(launcher: int, pipe: int, program: str, arguments: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            sys.exit("the launcher has ended")  # before prctl took effect
        os.execv(sys.executable, [sys.executable, program, *arguments])
    run_beside(pipe, program, arguments)


def run_beside(pipe: int, program: str, arguments: list[str]) -> None:
    """Run the program next to a thread that kills this process when the pipe ends."""
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    sys.argv[:] = [program, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    runpy.run_path(program, run_name="__main__")


def _watch(pipe: int) -> None:
    os.read(pipe, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
