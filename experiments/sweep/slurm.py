"""The executor `--executor=slurm`, which submits the runs as job arrays of SLURM through submitit.

The progress of a run is stored in its directory alone. So the same command again submits the runs that are neither done nor in
the queue. Runs that start from another one are in a separate array, which SLURM holds until the other run has succeeded.

SLURM signals a preemption, and the end of a time limit in advance. submitit then asks the Task to save and puts it back into
the queue. A run that stops by itself (train.max_minutes) also goes back into the queue.
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
from submitit.core.utils import FailedJobError

from errors import UserError
from experiments.sweep.launch import MAIN, Launch, Phase, Progress
from experiments.sweep.local import Attempt, hold
from experiments.sweep.plan import Job
from experiments.sweep.state import UNFINISHED
from experiments.sweep.summary import summarise, write_summary
from files import read_json, write_atomically

FRUITLESS = 3  # stops in a row without a saved step after which a run has failed: its time limit is too short
POLL_SECONDS = 0.2  # between two checks of the run's process
NOTICE = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")  # SLURM sends it before it ends a job
FOLDER = "slurm"  # in the sweep's folder: scripts and logs of submitit
QUEUE = "slurm.json"  # the job of each submitted run


class Task:
    """The work of a job, which trains one run. submitit calls it in the job, and `checkpoint` before the job ends."""

    def __init__(self, job: Job, program: pathlib.Path, fruitless: int = 0):
        """Keep the job. The last `fruitless` stops of the run in a row have saved nothing."""
        self.job, self.program, self.fruitless = job, program, fruitless
        self.attempt: Attempt | None = None

    def __call__(self) -> None:
        """Start or resume the run, and return when it is done. Raise RuntimeError if it has failed."""
        run = Progress(self.job)
        if run.state.done:
            return
        read, _ = os.pipe()  # this process holds the other end
        # Block the notice in the run: SLURM sends it to every process of a job, but the run would not save on it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {NOTICE})
        attempt = self.attempt = Attempt(run, self.program, {}, read)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {NOTICE})
        _wait(attempt)
        code = attempt.process.wait()
        run.refresh()
        if run.state.done:
            return
        if code == UNFINISHED:
            signal.raise_signal(NOTICE)  # submitit puts the job back into the queue, and ends this process
        raise RuntimeError(f"{self.job.label} has failed: {attempt.last_line()}")

    def checkpoint(self) -> submitit.helpers.DelayedSubmission | None:
        """Let the run save. Return the next submission of it, or None, a failure, after FRUITLESS stops."""
        fruitless = self.fruitless
        if self.attempt is not None:
            self.attempt.process.terminate()
            _wait(self.attempt)
            fruitless = 0 if self.attempt.run.state.kept > self.attempt.kept else fruitless + 1
        if fruitless == FRUITLESS:
            return None
        return submitit.helpers.DelayedSubmission(Task(self.job, self.program, fruitless))


def _wait(attempt: Attempt) -> None:
    # Popen.wait and poll take a lock, and `checkpoint`, a signal handler, may run inside them.
    process, options = attempt.process, os.WEXITED | os.WNOHANG | os.WNOWAIT
    while process.returncode is None and os.waitid(os.P_PID, process.pid, options) is None:
        time.sleep(POLL_SECONDS)


def launch(sweep: Launch) -> int:
    """Submit the runs that are neither done nor in the queue, and print the state of each run. Return 0.

    Raise UserError if SLURM is not available or refuses a job, or if the options have no time limit.
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
    """Return the parameters of submitit. `options` are sbatch's by name, and submitit's setup and signal_delay_s."""
    others = dict(options)
    minutes = others.pop("time", "")
    if not minutes.isdigit() or not int(minutes):
        raise UserError(
            f"--slurm.time={minutes} must be the job's time limit in whole minutes, such as --slurm.time=240; a run that "
            "needs longer saves in time and goes back into the queue"
        )
    delay = others.pop("signal_delay_s", "90")
    if not delay.isdigit():
        raise UserError(f"--slurm.signal_delay_s={delay} must be whole seconds, the time in which a run saves")
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
    """Submit the runs that are neither done nor in `queued`, as one array for each run that they start from."""
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
        except (FailedJobError, subprocess.CalledProcessError, OSError) as error:
            raise UserError(
                f"sbatch refuses the jobs: {(str(error).strip().splitlines() or ['no reason given'])[-1]}"
            ) from error
        for run, job in zip(group, jobs, strict=True):
            run.phase, run.note = Phase.QUEUED, f"job {job.job_id}"
            ids[run.job.workdir.name] = job.job_id
        write_atomically(place, json.dumps(ids, indent=2).encode() + b"\n")


def _group(runs: Sequence[Progress]) -> Iterator[tuple[Progress | None, list[Progress]]]:
    """Yield the runs to submit, grouped by the unfinished run that they start from, which comes first."""
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
    """Return the ids of this user's jobs that wait or run, such as 123, or 123_4 in an array."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=60)
        return set(done.stdout.split())
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise UserError(f"squeue cannot list the jobs in the queue ({said[-1]}); try again later") from error
