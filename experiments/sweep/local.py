"""The executor `--executor=local`, which starts a process of main.py for each run, some at a time, on this machine.

The processes end when this one ends. The progress of a run is stored in its directory alone. So a launcher that was stopped or
killed leaves nothing to repair: the next one starts the unfinished runs, and main.py resumes them.
"""

import contextlib
import datetime
import fcntl
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from errors import UserError
from experiments.run import child
from experiments.sweep.devices import make_slots
from experiments.sweep.launch import Launch, Phase, Progress
from experiments.sweep.state import UNFINISHED, in_use
from experiments.sweep.summary import summarise, write_summary
from experiments.sweep.table import View, open_view
from files import open_lock

POLL_SECONDS = 0.2  # between two checks of the processes
LOG = "output.log"  # in a run's directory: the output of its processes
EXCEPTION = re.compile(r"([\w.]+\.)?\w+(Error|Exception|Interrupt)(: |$)")  # the last line of a traceback
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

AnyRun = TypeVar("AnyRun", bound=Progress)


def launch(sweep: Launch) -> int:
    """Run a sweep. Return 0 if all runs are done, 1 if a run failed, 75 if a signal stopped the sweep.

    After 75 the same command continues the sweep. Raise UserError if another launcher works in the sweep's folder.
    """
    with hold(sweep.workdir):
        runs = [Progress(job) for job in sweep.jobs]
        with open_view(runs) as view:
            stopped = Local(runs, make_slots(sweep.at_a_time), sweep.program, view).run()
        write_summary(sweep.workdir, runs)
    print(summarise(runs), flush=True)
    if stopped and any(run.phase is not Phase.DONE for run in runs):
        print("stopped: start the same command again to go on", flush=True)
        return UNFINISHED
    return 1 if any(run.phase in (Phase.FAILED, Phase.NOT_STARTED) for run in runs) else 0


@contextlib.contextmanager
def hold(workdir: pathlib.Path, shared: bool = False) -> Iterator[None]:
    """Lock a sweep's folder for one launcher, or for several that share it. Raise UserError if another one holds it."""
    try:
        lock = open_lock(workdir / ".sweep.lock")
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.strerror}); choose another") from None
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"{workdir}: another launcher works here ({lock.read().decode().strip()}); wait for its end or stop it"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        lock.flush()
        yield


class Attempt(Generic[AnyRun]):
    """One start of a run, with its process and the place in the log where its output begins."""

    def __init__(self, run: AnyRun, program: pathlib.Path, environment: Mapping[str, str], pipe: int):
        """Start the process. Raise OSError if the operating system cannot start it."""
        self.run, self.kept, self.told = run, run.state.kept, False  # told: asked to stop
        run.job.workdir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", child.__file__, str(os.getpid()), str(pipe), str(program), *run.job.arguments]
        self.log = run.job.workdir / LOG
        with open(self.log, "ab") as log:
            moment = datetime.datetime.now().isoformat(" ", "seconds")
            log.write(f"--- {moment} {shlex.join([str(program), *run.job.arguments])}\n".encode())
            log.flush()
            self.begin = log.tell()
            # In its own session: Ctrl-C and a closed terminal reach the launcher alone, which lets the runs save.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
                pass_fds=(pipe,),
            )

    def last_line(self) -> str:
        """Return the last error that the process has printed, or its last line if it has printed no error."""
        with open(self.log, "rb") as log:
            log.seek(self.begin)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ") or EXCEPTION.match(line)]
        return (errors or lines or ["it printed nothing"])[-1]

    def kill(self) -> None:
        """Kill the process and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Local(Generic[AnyRun]):
    """The runs of a sweep, and the processes of those that train now."""

    def __init__(self, runs: Sequence[AnyRun], slots: Sequence[Mapping[str, str]], program: pathlib.Path, view: View):
        self.runs, self.slots, self.program, self.view = runs, slots, program, view
        self.by_job = {id(run.job): run for run in runs}
        self.attempts: dict[int, Attempt[AnyRun]] = {}  # by slot
        self.stopping = False  # after a signal
        self.at_once = False  # after another Ctrl-C: kill the processes

    def run(self) -> bool:
        """Train all runs until none is left to start. Return whether a signal has stopped the sweep."""
        read, write = os.pipe()  # only this process holds `write`, so `read` closes when it ends
        try:
            with self._signals():
                while True:
                    for slot in list(self.attempts):
                        self._attend(slot)
                    if self.stopping:
                        self._pass_on()
                    else:
                        self._start(read)
                    if not self.attempts and (self.stopping or not self._goes_on()):
                        break
                    self.view.update()
                    time.sleep(POLL_SECONDS)
        finally:
            for attempt in self.attempts.values():  # after an error in this code
                attempt.kill()
            os.close(read)
            os.close(write)
        for run in self.runs:
            if run.phase in (Phase.WAITING, Phase.IN_USE):
                run.phase, run.note = Phase.STOPPED, ""
        return self.stopping

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        earlier = {number: signal.signal(number, self._stop) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame) -> None:
        self.at_once = self.stopping and number == signal.SIGINT
        self.stopping = True

    def _pass_on(self) -> None:
        """Ask each process to save and stop, or kill it after another Ctrl-C."""
        for attempt in self.attempts.values():
            if self.at_once:
                attempt.kill()
            elif not attempt.told:
                attempt.told = True
                attempt.process.terminate()
                self.view.say(f"stopping: {attempt.run.job.label} saves")

    def _start(self, pipe: int) -> None:
        for run in self.runs:
            if run.phase not in (Phase.WAITING, Phase.IN_USE) or not self._is_ready(run):
                continue
            free = [slot for slot in range(len(self.slots)) if slot not in self.attempts]
            if not free:
                return
            run.refresh()
            if in_use(run.job.workdir):
                if run.phase is not Phase.IN_USE:
                    self._change(run, Phase.IN_USE, "another process trains it; waiting for it to end")
                continue
            if run.state.done:
                self._change(run, Phase.DONE)
                continue
            try:
                self.attempts[free[0]] = Attempt(run, self.program, self.slots[free[0]], pipe)
            except OSError as error:
                self._change(run, Phase.FAILED, f"cannot be started: {error}")
                continue
            run.begin()
            self.view.changed(run)

    def _goes_on(self) -> bool:
        """Return whether a run is left to start."""
        return any(run.phase in (Phase.WAITING, Phase.IN_USE) for run in self.runs)

    def _is_ready(self, run: AnyRun) -> bool:
        """Return whether the run that this one starts from is done. If that one failed, this one never starts."""
        if run.job.start is None:
            return True
        start = self.by_job[id(run.job.start)]
        if start.phase in (Phase.FAILED, Phase.NOT_STARTED):
            self._change(run, Phase.NOT_STARTED, f"{start.job.label} failed")
        elif start.phase is not Phase.DONE:
            run.note = f"for {start.job.label}"
        return start.phase is Phase.DONE

    def _attend(self, slot: int) -> None:
        """Read the progress of the run in a slot. If its process has ended, set the run's next phase."""
        attempt = self.attempts[slot]
        run, code = attempt.run, attempt.process.poll()
        run.refresh()
        if code is None:
            return
        del self.attempts[slot]
        if run.state.done:
            self._change(run, Phase.DONE)
        elif code in (0, UNFINISHED) or code < 0:  # stopped by its time limit, or by a signal of another program
            if self.stopping:
                self._change(run, Phase.STOPPED)
            elif run.state.kept > attempt.kept:
                self._change(run, Phase.WAITING, f"stopped at step {max(run.state.saved, 0)}, started again")
            else:
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                line = f"stopped {how} and saved nothing after step {max(attempt.kept[0], 0)}; {attempt.last_line()}"
                self._change(run, Phase.FAILED, line)
        else:
            self._change(run, Phase.FAILED, attempt.last_line())

    def _change(self, run: AnyRun, phase: Phase, note: str = "") -> None:
        run.phase, run.note = phase, note
        self.view.changed(run)
