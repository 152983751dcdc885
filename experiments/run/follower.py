"""The follower, a process that sends metrics.jsonl to W&B.

It reads only the run directory, so W&B can be slow, unreachable or broken without any effect on the training loop. A
resumed run repeats the steps after its checkpoint, line for line. Its follower skips the steps that were already sent.

    echo finished | python -m experiments.run.follower WORKDIR        sends the rows that no follower has sent yet

Imports neither jax nor numpy, so the follower starts quickly and uses little memory.
"""

import argparse
import contextlib
import fcntl
import importlib.util
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

# Pause before another attempt to open a run and send. First and longest pause; each is twice the one before.
RETRY_SECONDS = (2.0, 300.0)
RETRY_SECONDS_AT_END = 30.0  # longest pause once the run has ended
ATTEMPTS = 3  # for an offline run, where waiting does not help


class Follower:
    """The handle of the training loop on the process that sends a run directory to W&B. Its methods raise nothing.

    It holds only the writing end of a pipe to the process. When this side closes the pipe, or dies, the follower sends the
    remaining rows and ends by itself.
    """

    def __init__(self, workdir: Path, settings, timeout: float):
        """Take a `workdir` with config.json and wandb_id, `settings` (config.wandb), and the longest wait in seconds at exit."""
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
        """Start the process, unless wandb.mode is disabled. A failure gives one warning."""
        if self.settings.mode == "disabled":
            return
        spec = importlib.util.find_spec("wandb")
        if spec is None or spec.origin is None:  # without an origin it is a folder of offline runs, not the package
            warn("W&B gets no rows, because the wandb package is not installed; metrics.jsonl is still written")
            return
        command = [sys.executable, "-u", "-m", "experiments.run.follower", str(self.workdir)]
        try:
            folder = self.workdir / "wandb"
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "follower.log", "ab") as log:
                # In a new session, so that Ctrl-C or SIGTERM to the run's group does not stop it before it has sent all rows.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=Path(__file__).parents[2],
                    start_new_session=True,
                )
        except OSError as error:
            warn(f"W&B gets no rows, because the follower does not start ({error}); metrics.jsonl is still written")

    def close(self, timeout: float, outcome: str) -> None:
        """Let the follower send the remaining rows, and wait at most `timeout` seconds. Then it continues alone.

        `outcome` is the end of the run: finished, stopped or failed. A second call does nothing.
        """
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        log = self.workdir / "wandb" / "follower.log"
        with contextlib.suppress(BrokenPipeError):  # a follower that has died is reported below
            process.stdin.write(f"{outcome}\n".encode())
            process.stdin.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            warn(
                f"W&B has not received all rows yet; process {process.pid} continues to send them, see {log}. If it does not "
                f"finish, {remedy(self.workdir)}"
            )
        else:
            if process.returncode != 0:
                warn(f"W&B has not received all rows, see {log}; metrics.jsonl is complete, and {remedy(self.workdir)}")


def remedy(workdir: Path) -> str:
    """Return a sentence with the shell command that sends the remaining rows."""
    command = f"echo finished | {shlex.quote(sys.executable)} -m experiments.run.follower {shlex.quote(str(workdir))}"
    return f"`{command}` sends the rest"


class _Parent:
    """The followed run, seen from the follower. Its pipe ends when the run closes it or dies for any cause."""

    def __init__(self, pipe: int, workdir: Path):
        self.ended = threading.Event()
        self.outcome = "failed"  # unless the parent reports another
        self._pipe, self._workdir = pipe, workdir
        # In a thread, because W&B may hang in the main thread.
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        said = b""
        while part := os.read(self._pipe, 64):  # a file object would still be locked at exit
            said += part
        word = said.decode(errors="replace").strip()
        self.outcome = word if word in EXIT_CODES else "failed"
        signal.alarm(LINGER_SECONDS)  # then the kernel ends this process, even if a call hangs
        self._end = time.monotonic() + LINGER_SECONDS
        self.ended.set()
        time.sleep(LINGER_SECONDS - 1)
        print(f"W&B did not receive all rows within {LINGER_SECONDS} s; {remedy(self._workdir)}", file=sys.stderr)

    def seconds_left(self) -> float:
        """Return the seconds that the follower may still work."""
        return self._end - time.monotonic() if self.ended.is_set() else math.inf


def follow(workdir: Path) -> int:
    """Send workdir/metrics.jsonl to W&B until the parent ends, and return the exit code. Failures are printed."""
    for number in STOPS:  # a job signals every process at its end, but the pipe decides when to stop
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)  # training has priority
    parent = _Parent(sys.stdin.fileno(), workdir)
    try:
        config = read_json(workdir / "config.json")
        run_id = read_text(workdir / "wandb_id").strip()
        with open_lock(workdir / "wandb" / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the follower of an earlier start may still be sending
            if _try_to_send(workdir, config, run_id, parent):
                return 0
        print(f"W&B did not receive all rows; {remedy(workdir)}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"the rows of {workdir} cannot be sent to W&B: {error}", file=sys.stderr)
    return 1


def _try_to_send(workdir: Path, config: dict, run_id: str, parent: _Parent) -> bool:
    """Send all rows, and return False if every attempt fails.

    For an online run, attempts end LINGER_SECONDS after the parent.
    """
    mode, pause, attempt = None, RETRY_SECONDS[0], 0
    while True:
        attempt += 1
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
    """Open the W&B run, send rows until the parent ends, and finish the run. Raises the errors of W&B."""
    dashboard = Dashboard(workdir, config, run_id, mode)
    print(f"sending the steps after {dashboard.sent}")
    metrics = workdir / "metrics.jsonl"
    metrics.touch()  # a run killed early has no such file
    news = _new_rows(metrics)
    while True:
        ended = parent.ended.is_set()  # asked before reading, so that every row written before the end is read
        dashboard.send(next(news))
        if ended:
            break
        parent.ended.wait(POLL_SECONDS)
    dashboard.finish(parent.outcome)
    print(f"sent up to step {dashboard.sent}")


def _new_rows(path: Path) -> Iterator[list[dict]]:
    """Yield the rows completed since the last call, without end. A file replaced by a cut is read from its start."""
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
