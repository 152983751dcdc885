"""`--executor=slurm`: the runs as job arrays of SLURM, submitted by submitit.

What a run has done is in its directory alone. So the same command again submits what is neither done nor in the queue. A run
that starts from another one is in an array of its own, which SLURM holds until that one has ended well.

SLURM's notice before a time limit, and a preemption, reach submitit, which asks the Task to save and puts it back into the
queue. A run that stops by itself (train.max_minutes) goes the same way.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

import submitit

from errors import UserError
from experiments.sweep.launch import MAIN, Launch, Phase, Progress
from experiments.sweep.local import Attempt, hold
from experiments.sweep.plan import Job
from experiments.sweep.state import UNFINISHED
from experiments.sweep.summary import summarise, write_summary
from files import read_json, write_atomically

FRUITLESS = 3  # stops in a row that have saved no step; then a run has failed: its limit is too short for a start
POLL_SECONDS = 0.2  # between two looks at the run's process
NOTICE = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")  # what SLURM sends before it ends a job
FOLDER = "slurm"  # in the sweep's folder: submitit's scripts and logs
QUEUE = "slurm.json"  # the job of each run that was submitted


class Task:
    """A run as a job carries it out. submitit calls it in the job, and `checkpoint` when the job is about to end."""

    def __init__(self, job: Job, program: pathlib.Path, fruitless: int = 0):
        """`fruitless` stops of this run in a row have saved nothing."""
        self.job, self.program, self.fruitless = job, program, fruitless
        self.attempt: Attempt | None = None

    def __call__(self) -> None:
        """Train the run, or goes on with it. Return when it is done. Raise RuntimeError where it has failed."""
        run = Progress(self.job)
        if run.state.done:
            return
        read, _ = os.pipe()  # the other end is this process's
        # The run must not hear the notice: SLURM sends it to every process of a job, and it is no signal to save.
        signal.pthread_sigmask(signal.SIG_BLOCK, {NOTICE})
        self.attempt = Attempt(run, self.program, {}, read)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {NOTICE})
        self._wait()
        code = self.attempt.process.wait()
        run.refresh()
        if run.state.done:
            return
        if code == UNFINISHED:
            signal.raise_signal(NOTICE)  # submitit puts the job back into the queue, and ends this process
        raise RuntimeError(f"{self.job.label} has failed: {self.attempt.last_line()}")

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Let the run save. Return what goes on with it, or None, a failure, after too many stops for nothing."""
        fruitless = self.fruitless
        if self.attempt is not None:
            self.attempt.process.terminate()
            self._wait()
            fruitless = 0 if self.attempt.run.state.kept > self.attempt.kept else fruitless + 1
        if fruitless == FRUITLESS:
            return None
        return submitit.helpers.DelayedSubmission(Task(self.job, self.program, fruitless))

    def _wait(self) -> None:
        # Neither Popen.wait nor poll: they lock, and `checkpoint` runs in a signal handler amidst them.
        process, options = self.attempt.process, os.WEXITED | os.WNOHANG | os.WNOWAIT
        while process.returncode is None and os.waitid(os.P_PID, process.pid, options) is None:
            time.sleep(POLL_SECONDS)


def launch(sweep: Launch) -> int:
    """Submit what is neither done nor in the queue, and says where each run is. Return 0.

    Raise UserError where SLURM is not at hand or refuses, and where the options lack the time limit.
    """
    if shutil.which("srun") is None:
        raise UserError("--executor=slurm: srun is not on PATH; start this command on a machine of the cluster")
    with hold(sweep.workdir):
        executor = submitit.SlurmExecutor(sweep.workdir / FOLDER, max_num_timeout=10**6)
        executor.update_parameters(**read_options(sweep.options, sweep.at_a_time))
        runs = [Progress(job) for job in sweep.jobs]
        submit(runs, executor, sweep, _ask_queue())
        write_summary(sweep.workdir, runs)
    print(summarise(runs), flush=True)
    return 0


def read_options(options: Mapping[str, str], at_a_time: int | None) -> dict:
    """Return submitit's parameters. `options` are those of sbatch by their names, and submitit's setup and signal_delay_s."""
    others = dict(options)
    minutes = others.pop("time", "")
    if not minutes.isdigit() or not int(minutes):
        raise UserError(
            f"--slurm.time={minutes}: must be the job's time limit in whole minutes, such as --slurm.time=240; a run that "
            "needs longer saves in time and goes back into the queue"
        )
    delay = others.pop("signal_delay_s", "90")
    if not delay.isdigit():
        raise UserError(f"--slurm.signal_delay_s={delay}: must be whole seconds: the time that a run has to save")
    setup = [f"export PYTHONPATH={shlex.quote(str(MAIN.parent))}${{PYTHONPATH:+:$PYTHONPATH}}"]
    setup += filter(None, [others.pop("setup", "")])
    limits = {} if at_a_time is None else {"array_parallelism": at_a_time}
    others = {"kill-on-invalid-dep": "yes"} | {name: value or True for name, value in others.items()}
    return limits | {
        "job_name": "sweep",
        "time": int(minutes),
        "signal_delay_s": int(delay),
        "setup": setup,
        "wckey": None,
        "additional_parameters": others,
    }


def submit(runs: Sequence[Progress], executor: submitit.Executor, sweep: Launch, queued: set[str]) -> None:
    """Submit the runs that are neither done nor among the jobs `queued`, one array for those that wait for the same run."""
    place = sweep.workdir / QUEUE
    ids: dict[str, str] = read_json(place) if place.exists() else {}
    for run in runs:
        job = ids.get(run.job.workdir.name)
        if run.phase is not Phase.DONE and job in queued:
            run.phase, run.note = Phase.QUEUED, f"job {job}"
    for start, group in _group(runs):
        executor.update_parameters(dependency=start and f"afterok:{ids[start.job.workdir.name]}")
        try:
            with executor.batch():
                jobs = [executor.submit(Task(run.job, sweep.program)) for run in group]
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
            raise UserError(
                f"sbatch refuses: {(str(error).strip().splitlines() or ['no reason given'])[-1]}"
            ) from error
        for run, job in zip(group, jobs, strict=True):
            run.phase, run.note = Phase.QUEUED, f"job {job.job_id}"
            ids[run.job.workdir.name] = job.job_id
        write_atomically(place, json.dumps(ids, indent=2).encode() + b"\n")


def _group(runs: Sequence[Progress]) -> Iterator[tuple[Progress | None, list[Progress]]]:
    """Return the runs to submit, together those that start from the same run; that run comes before them."""
    by_job = {id(run.job): run for run in runs}
    groups: dict[int | None, list[Progress]] = {}
    for run in runs:
        if run.phase is Phase.WAITING:
            start = run.job.start
            held = start is not None and by_job[id(start)].phase is not Phase.DONE
            groups.setdefault(id(start) if held else None, []).append(run)
    for key, group in groups.items():
        yield (by_job[key] if key is not None else None), group


def _ask_queue() -> set[str]:
    """Return the jobs of this user that wait or run: 123, or 123_4 of an array."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=60)
        return set(done.stdout.split())
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise UserError(f"squeue does not say which runs are in the queue ({said[-1]}); try again later") from error
