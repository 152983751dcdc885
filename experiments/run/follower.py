"""The follower: sends metrics.jsonl to W&B.

It is a process of its own and reads nothing but the run directory, so W&B can be slow, unreachable or broken and the
training loop is not affected. A resumed run repeats the steps after its checkpoint, line for line; its follower skips
those that have been sent.

    echo finished | python -m experiments.run.follower WORKDIR        sends what no follower has sent yet

Imports neither jax nor numpy: the follower starts in a moment and takes little memory from the run.
"""

import argparse
import contextlib
import fcntl
import importlib.util
import itertools
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from errors import warn
from experiments.run.dashboard import (
    EXIT_CODES,
    LINGER_SECONDS,
    POLL_SECONDS,
    Dashboard,
    choose_mode,
    forget_wandb,
)
from experiments.run.metrics_file import parse_row
from experiments.run.preemption import STOPS
from files import open_lock, read_json, read_text

# Before another attempt to open a run and send: at first, and at most; twice as long each time.
RETRY_SECONDS = (2.0, 300.0)
RETRY_SECONDS_AT_END = 30.0  # at most, when the run has ended
ATTEMPTS = 3  # of a run offline: nothing gets better by waiting


class Follower:
    """The process that sends a run directory to W&B, seen from the training loop: once made, it raises nothing.

    It holds the writing end of a pipe to the process and nothing else: when this side closes it, or dies, the follower
    sends what is left and ends by itself.
    """

    def __init__(self, workdir: Path, settings, timeout: float):
        """`workdir` holds config.json and wandb_id, `settings` is config.wandb; leaving waits at most `timeout` seconds."""
        self.workdir = workdir.absolute()
        self.settings = settings
        self.timeout = timeout
        self._process = None

    def __enter__(self) -> "Follower":
        self.start()
        return self

    def __exit__(self, error_type, error, trace) -> None:
        self.close(self.timeout, "failed" if error_type else "finished")

    def start(self) -> None:
        """Start the process, unless wandb.mode is disabled. A failure is one warning."""
        if self.settings.mode == "disabled":
            return
        spec = importlib.util.find_spec("wandb")
        if spec is None or spec.origin is None:  # without an origin it is a folder of offline runs, not the package
            warn("W&B: the wandb package is not installed; metrics.jsonl is written all the same")
            return
        command = [sys.executable, "-u", "-m", "experiments.run.follower", str(self.workdir)]
        try:
            folder = self.workdir / "wandb"
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "follower.log", "ab") as log:
                # A session of its own: Ctrl-C and SIGTERM to the run's group must not stop it before it has sent all.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parents[2],
                    start_new_session=True,
                )
        except OSError as error:
            warn(f"W&B: the follower does not start: {error}; metrics.jsonl is written all the same")

    def close(self, timeout: float, outcome: str) -> None:
        """Let the follower send what is left, and wait for it at most `timeout` seconds; then it goes on alone.

        `outcome` is what became of the run: finished, stopped or failed. A second call does nothing.
        """
        process, self._process = self._process, None
        if process is None:
            return
        log = self.workdir / "wandb" / "follower.log"
        with contextlib.suppress(BrokenPipeError):  # a follower that has died is reported below
            process.stdin.write(f"{outcome}\n".encode())
            process.stdin.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            warn(f"W&B: still sending, process {process.pid} goes on alone, see {log}; later, {remedy(self.workdir)}")
        else:
            if process.returncode != 0:
                warn(f"W&B: not everything reached it, see {log}; metrics.jsonl is complete: {remedy(self.workdir)}")


def remedy(workdir: Path) -> str:
    """Says how to send what has not been sent, in the words of a shell."""
    command = f"echo finished | {shlex.quote(sys.executable)} -m experiments.run.follower {shlex.quote(str(workdir))}"
    return f"`{command}` sends the rest"


class _Parent:
    """The run that is followed, seen from the follower: its pipe ends when it closes it or dies, for any cause."""

    def __init__(self, pipe: int, workdir: Path):
        self.ended = threading.Event()
        self.outcome = "failed"  # of a parent that dies and cannot say
        self._pipe, self._workdir = pipe, workdir
        # A thread, and not a look between two polls: W&B may hang in the main thread.
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        said = b""
        while part := os.read(self._pipe, 64):  # unbuffered: a file object would still be locked at the process's exit
            said += part
        word = said.decode(errors="replace").strip()
        self.outcome = word if word in EXIT_CODES else "failed"
        signal.alarm(LINGER_SECONDS)  # the kernel then ends this process, even if it hangs in a call
        self._end = time.monotonic() + LINGER_SECONDS
        self.ended.set()
        time.sleep(LINGER_SECONDS - 1)
        print(f"not everything reached W&B in {LINGER_SECONDS} s: {remedy(self._workdir)}", file=sys.stderr)

    def seconds_left(self) -> float:
        """Returns for how long the follower may still work."""
        return self._end - time.monotonic() if self.ended.is_set() else math.inf


def follow(workdir: Path) -> int:
    """Send workdir/metrics.jsonl to W&B until the parent ends. Returns the exit code; what went wrong is printed."""
    for number in STOPS:  # a job's end signals every process: the pipe says when to stop
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)  # training comes first
    parent = _Parent(sys.stdin.fileno(), workdir)
    try:
        config = read_json(workdir / "config.json")
        run_id = read_text(workdir / "wandb_id").strip()
        with open_lock(workdir / "wandb" / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the follower of an earlier start may still be sending
            if _try_to_send(workdir, config, run_id, parent):
                return 0
        print(f"not everything reached W&B: {remedy(workdir)}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"{workdir} cannot be followed: {error}", file=sys.stderr)
    return 1


def _try_to_send(workdir: Path, config: dict, run_id: str, parent: _Parent) -> bool:
    """Send all, in several attempts: those of a run online end LINGER_SECONDS after the parent. Returns False if all fail."""
    mode, pause = None, RETRY_SECONDS[0]
    for attempt in itertools.count(1):
        try:
            mode = mode or choose_mode(config)
            _send_all(workdir, config, run_id, mode, parent)
            return True
        except Exception:
            traceback.print_exc()
            forget_wandb()
        waits = mode == "online"
        if parent.ended.is_set():
            pause = min(pause, RETRY_SECONDS_AT_END)
        if parent.seconds_left() < pause or (not waits and attempt == ATTEMPTS):
            return False
        print(f"trying again in {pause:.0f} s")
        if waits and parent.ended.is_set():
            time.sleep(pause)
        else:
            parent.ended.wait(pause)
        pause = min(2 * pause, RETRY_SECONDS[1])


def _send_all(workdir: Path, config: dict, run_id: str, mode: str, parent: _Parent) -> None:
    """Open the W&B run, send until the parent ends, finish. Raises whatever W&B raises."""
    dashboard = Dashboard(workdir, config, run_id, mode)
    print(f"sending the steps after {dashboard.sent}")
    metrics = workdir / "metrics.jsonl"
    metrics.touch()  # a run that was killed early has none
    news = _new_rows(metrics)
    while True:
        ended = parent.ended.is_set()  # asked before reading, so that all which was written before the end is read
        dashboard.send(next(news))
        if ended:
            break
        parent.ended.wait(POLL_SECONDS)
    dashboard.finish(parent.outcome)
    print(f"sent up to step {dashboard.sent}")


def _new_rows(path: Path) -> Iterator[list[dict]]:
    """Without end, the rows completed since the last look; a file that a cut has put in place is read from its start."""
    while True:
        with open(path, "rb") as file:
            read = 0
            while os.path.samestat(os.fstat(file.fileno()), path.stat()):
                lines = file.readlines()
                if lines and not lines[-1].endswith(b"\n"):
                    file.seek(-len(lines.pop()), os.SEEK_CUR)
                yield [parse_row(path, number, line) for number, line in enumerate(lines, start=read + 1)]
                read += len(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Send a run to W&B until the standard input ends.")
    parser.add_argument("workdir", type=Path)
    sys.exit(follow(parser.parse_args().workdir.absolute()))
