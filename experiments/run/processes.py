"""Join the processes that train one run, stop them together, and report the death of one of them.

Under SLURM (srun), Open MPI, on Cloud TPU and on GKE jax finds the other processes by itself. Elsewhere flags name them:

    python main.py --coordinator=HOST:PORT --processes=2 --process=0 ...

When one process dies, jax aborts the others with a C++ trace. main.py therefore runs itself as a child process, and turns that
abort into one line and the exit code of a stop. Imports no jax before it joins.
"""

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from errors import UserError, explain_system
from experiments.run.preemption import STOPS, UNFINISHED
from experiments.run.roll_call import call_the_roll

HEARTBEAT = 25  # seconds of silence after which a process counts as dead
PATIENCE = 20  # more seconds, in which jax learns of the death of another process
PLACE = ("coordinator", "processes", "process")  # the flags of a process's place
ROLL_CALL = 30  # seconds until a process counts as missing
GUARDED = "RUN_IS_GUARDED"
SLURM = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)  # variables that srun sets
TPU_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
LAG = 2  # calls until an answer is read, when the devices have computed it
OURS = ("error: ", "warning: ", "stopped")  # beginnings of this project's lines
NOISE = re.compile(
    r"[IWEF]\d{4} \d\d:\d\d:\d\d.*(coordination|preemption_sync|client\.h)"
)  # jax's log lines before an abort
DEAD = re.compile(r"stopped sending heartbeats\):((?:\s*\n\d+)+)")


def are_several(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether flags or the environment make this process one of several. `--processes=1` means that it is not."""
    named = _read_flag(arguments, "processes")
    if named:
        return named != "1"
    sizes = [environment.get(name, "1") for name in ("OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")]
    if all(name in environment for name in SLURM):
        sizes.append(environment["SLURM_NTASKS"])
    hosts = (environment.get(name, "") for name in TPU_HOSTS)
    return (
        any(size not in ("", "1") for size in sizes) or any("," in names for names in hosts) or _is_on_tpu(environment)
    )


def _read_flag(arguments: Sequence[str], name: str) -> str:
    """Return the value of --NAME=VALUE or --NAME VALUE before the flags are parsed, "" if it is missing."""
    found = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", argument):
            found = following if match[1] is None else match[1]
    return found


def _is_on_tpu(environment: Mapping[str, str]) -> bool:
    """Return whether this is a TPU VM. Its metadata server knows the other processes, if there are any."""
    skipped = "TPU_SKIP_MDS_QUERY" in environment or environment.get("JAX_PLATFORMS", "tpu") != "tpu"
    return not skipped and any(Path(place).exists() for place in ("/dev/accel0", "/dev/vfio/0"))


def join(coordinator: str | None, processes: int | None, process: int | None, roll_call: bool = False) -> None:
    """Join the other processes, if flags or the environment name any. Call this before any use of devices.

    Only process 0 prints to stdout; the output of the others is dropped. With `roll_call`, first check that all processes are
    present, and name the missing ones.

    Raises UserError if the flags are incomplete, or if the others cannot be reached.
    """
    given = dict(zip(PLACE, (coordinator, processes, process), strict=True))
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3 and processes != 1:
        raise UserError(f"--{missing[0]} is missing; give all of --coordinator=HOST:PORT, --processes and --process")
    if not are_several(sys.argv, os.environ):
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    named = {} if missing else {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    if roll_call:
        call_the_roll(*_find_place(coordinator, processes, process), ROLL_CALL)
    try:
        jax.distributed.initialize(**named, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the other processes cannot be joined ({' '.join(str(error).split())[:200]}); start all of them with the same "
            "--coordinator and --processes, and check that the coordinator's port is open"
        ) from None

    if jax.process_index():
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115 - as long as the process


def _find_place(coordinator: str | None, processes: int | None, process: int | None) -> tuple[str, int, int]:
    """Return coordinator, processes and process from the flags, or else from the environment by jax's rules."""
    if coordinator is not None and processes is not None and process is not None:
        return coordinator, processes, process
    from jax._src.clusters import ClusterEnv  # jax has no public name for this

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, None)
        address, count, number, *_ = found
        if address is None or count is None or number is None:
            raise ValueError("no cluster")
        return address, count, number
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(
            f"the other processes cannot be found in the environment ({error!r}); give --coordinator, --processes and --process"
        ) from None


def leave(error: UserError | OSError) -> NoReturn:
    """End this process with the error's line on stderr and exit code 1, without waiting for other processes."""
    if isinstance(error, OSError):
        error = explain_system(error)
    if GUARDED in os.environ:
        if error.__cause__ is not None and not isinstance(error.__cause__, OSError):
            wait_for_the_others()
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(f"error: {error}")


def wait_for_the_others() -> None:
    """Wait for jax to end this process, if another one has died and caused the error. Otherwise return."""
    import jax

    if jax.process_count() > 1:
        time.sleep(HEARTBEAT + PATIENCE)


class Agreement:
    """An agreement of all processes on whether to stop. Each process gets the same answer.

    All processes must call it equally often. A call answers the question of LAG calls before, so it need not wait for the
    devices.
    """

    def __init__(self):
        self._answers: collections.deque = collections.deque()
        self._ask = _make_question()

    def __call__(self, wanted: bool) -> bool:
        """Pass on whether this process wants to stop, and return whether any process wanted to."""
        if self._ask is None:
            return wanted
        self._answers.append(self._ask(wanted))
        return len(self._answers) > LAG and bool(self._answers.popleft())


def _make_question() -> Callable[[bool], Any] | None:
    """Make the function that returns the maximum of all processes' wishes on the devices. None for one process."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    if jax.process_count() == 1:
        return None
    mesh = Mesh(np.array(jax.devices()), "device")
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["device"], []))
    most = jax.jit(lambda wanted: wanted.max(), out_shardings=whole)
    own = {wanted: np.full(jax.local_device_count(), wanted, np.int32) for wanted in (False, True)}
    return lambda wanted: most(jax.make_array_from_process_local_data(rows, own[wanted]))


def guard(arguments: Sequence[str]) -> int:
    """Run this program again as a child, wait for it, and return its exit code, or UNFINISHED if another process died.

    Signals are passed on to the child. The child does not outlive this process.
    """
    from experiments.run import child

    read, _ = os.pipe()  # the other end closes when this process ends
    command = [sys.executable, "-P", child.__file__, str(os.getpid()), str(read), *arguments]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {GUARDED: "1"},
        pass_fds=(read,),
        start_new_session=True,  # so that Ctrl-C reaches the child once, from here
    )
    signal.set_wakeup_fd(-1)  # drop main.py's first handlers, which would end this process
    passed = set()

    def pass_on(number: int, _) -> None:
        # A second Ctrl-C kills the child at once. jax would wait minutes for the other processes.
        number = signal.SIGKILL if number == signal.SIGINT and number in passed else number
        passed.add(number)
        running.send_signal(number)

    for number in STOPS:
        signal.signal(number, pass_on)
    assert running.stderr is not None
    words = _pass_on(running.stderr)
    code = running.wait()
    if -code in passed:  # a second Ctrl-C, or a signal before the child handled signals
        print("stopped: start the same command again", file=sys.stderr, flush=True)
        return UNFINISHED
    if code == -signal.SIGABRT and NOISE.search(words):
        print(_explain(words), file=sys.stderr, flush=True)
        return UNFINISHED
    # If several processes fail at the same time, jax reports the end of another one in addition to this project's line.
    own = [line for line in words.splitlines(keepends=True) if line.startswith(OURS)]
    sys.stderr.write("".join(own) or words)
    return code if code >= 0 else 128 - code


def _pass_on(stderr: IO[str]) -> str:
    """Copy a child's stderr to this process's, and return the part that begins with jax's log lines of an abort."""
    with contextlib.closing(stderr) as stream:
        for line in stream:
            if NOISE.match(line):
                return line + stream.read()
            sys.stderr.write(line)
            sys.stderr.flush()
    return ""


def _explain(words: str) -> str:
    dead = DEAD.search(words)
    who = ", ".join(dead[1].split()) if dead else "0"  # process 0 watches the others, and they watch process 0
    return (
        f"stopped: process {who} of this run has ended or cannot be reached; see its output for the reason. Start the same "
        "command again in all processes; the run resumes from its newest checkpoint"
    )
