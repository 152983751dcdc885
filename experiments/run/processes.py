"""Several processes that train one run: how they find each other, stop together, and what is said when one of them dies.

Under SLURM (srun), Open MPI, on Cloud TPU and on GKE jax finds the others by itself. Elsewhere flags name them:

    python main.py --coordinator=HOST:PORT --processes=2 --process=0 ...

A process that others depend on cannot say what ended it: when one of them dies, jax aborts the others with a trace of its own.
So main.py stands guard: it starts itself once more, and turns that end into one line and the exit code of a stop. Imports no
jax before it joins.
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
from typing import Any, NoReturn

from errors import UserError, explain_system
from experiments.run.preemption import STOPS, UNFINISHED
from experiments.run.roll_call import call_the_roll

HEARTBEAT = 25  # seconds of silence after which a process counts as dead
PATIENCE = 20  # seconds more, in which jax hears of the death of another process
PLACE = ("coordinator", "processes", "process")  # the flags that say where a process stands
ROLL_CALL = 30  # seconds until a process counts as missing
GUARDED = "RUN_IS_GUARDED"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # what srun sets
TPU_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
LAG = 2  # calls until an agreement is read: the device has come to it by then
OURS = ("error: ", "warning: ", "stopped")  # how a line of ours begins
NOISE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d.*(coordination|preemption_sync|client\.h)")  # jax's last words
DEAD = re.compile(r"stopped sending heartbeats\):((?:\s*\n\d+)+)")


def are_several(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether flags or the environment say that this process is one of several. `--processes=1` says that it is not."""
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
    """The value of --NAME=VALUE or --NAME VALUE, before the flags are parsed; "" where there is none."""
    found = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", argument):
            found = following if match[1] is None else match[1]
    return found


def _is_on_tpu(environment: Mapping[str, str]) -> bool:
    """Whether this is a TPU VM, whose metadata server knows the others, if there are any."""
    skipped = "TPU_SKIP_MDS_QUERY" in environment or environment.get("JAX_PLATFORMS", "tpu") != "tpu"
    return not skipped and any(Path(place).exists() for place in ("/dev/accel0", "/dev/vfio/0"))


def join(coordinator: str | None, processes: int | None, process: int | None, roll_call: bool = False) -> None:
    """Join the other processes, where flags or the environment say that there are any. Call it before any use of devices.

    Process 0 speaks for all: what the others print to stdout is dropped. `roll_call`: first see that all of them are
    there, and name those that are missing.

    Raises UserError where the flags are incomplete, and where the others cannot be reached.
    """
    given = dict(zip(PLACE, (coordinator, processes, process), strict=True))
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3 and processes != 1:
        raise UserError(
            f"--{missing[0]} is missing; several processes need --coordinator=HOST:PORT, --processes and --process"
        )
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
            f"the other processes cannot be joined ({' '.join(str(error).split())[:200]}); start all of them, with the same "
            "--coordinator and --processes, and see that its port is open"
        ) from None

    if jax.process_index():
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115 - as long as the process


def _find_place(coordinator: str | None, processes: int | None, process: int | None) -> tuple[str, int, int]:
    """What the flags say, or where they say nothing what jax finds in the environment."""
    if coordinator is not None:
        return coordinator, processes, process
    from jax._src.clusters import ClusterEnv  # jax has no public name for what it finds

    try:
        return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, None)[:3]
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UserError(
            f"the other processes cannot be found in the environment ({error!r}); name them by flags"
        ) from None


def leave(error: UserError | OSError) -> NoReturn:
    """End this process with the error's line on stderr and exit code 1. Of several, it does not wait for the others' end."""
    if isinstance(error, OSError):
        error = explain_system(error)
    if GUARDED in os.environ:
        if error.__cause__ is not None and not isinstance(error.__cause__, OSError):
            wait_for_the_others()
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    sys.exit(f"error: {error}")


def wait_for_the_others() -> None:
    """Let jax end this process, if what failed here is due to the death of another one. Returns where it is not."""
    import jax

    if jax.process_count() > 1:
        time.sleep(HEARTBEAT + PATIENCE)


class Agreement:
    """Whether any process wants to stop: one answer in all of them.

    Each process asks equally often, and hears what was wanted LAG calls before: no call waits for the devices.
    """

    def __init__(self):
        self._answers: collections.deque = collections.deque()
        self._ask = _make_question()

    def __call__(self, wanted: bool) -> bool:
        """Say whether this process wants to stop. Returns whether any did."""
        if self._ask is None:
            return wanted
        self._answers.append(self._ask(wanted))
        return len(self._answers) > LAG and bool(self._answers.popleft())


def _make_question() -> Callable[[bool], Any] | None:
    """The largest of what all processes want, as a number on the devices. None where there is one process alone."""
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
    """Run this program again as a child, and wait for it. Returns the exit code: UNFINISHED where another process has died.

    Signals go on to the child. It does not outlive this process.
    """
    from experiments.run import child

    read, _ = os.pipe()  # the other end closes with this process
    command = [sys.executable, "-P", child.__file__, str(os.getpid()), str(read), *arguments]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {GUARDED: "1"},
        pass_fds=(read,),
        start_new_session=True,  # Ctrl-C comes from here alone, and not twice
    )
    signal.set_wakeup_fd(-1)  # of main.py's first handlers, which would end this process
    passed = set()

    def pass_on(number: int, _) -> None:
        # A second Ctrl-C does not wait: jax would, for minutes, for the other processes.
        number = signal.SIGKILL if number == signal.SIGINT and number in passed else number
        passed.add(number)
        running.send_signal(number)

    for number in STOPS:
        signal.signal(number, pass_on)
    words = _pass_on(running)
    code = running.wait()
    if -code in passed:  # a second Ctrl-C, or the child had not come to its first line, which makes a stop of a signal
        print("stopped: start the same command again", file=sys.stderr, flush=True)
        return UNFINISHED
    if code == -signal.SIGABRT and NOISE.search(words):
        print(_explain(words), file=sys.stderr, flush=True)
        return UNFINISHED
    # Where several processes fail at the same time, jax reports the end of another one in addition to our own line.
    own = [line for line in words.splitlines(keepends=True) if line.startswith(OURS)]
    sys.stderr.write("".join(own) or words)
    return code if code >= 0 else 128 - code


def _pass_on(running: subprocess.Popen) -> str:
    """Pass on what a process writes to stderr. Returns what it has written from jax's last words on."""
    with contextlib.closing(running.stderr) as stream:
        for line in stream:
            if NOISE.match(line):
                return line + stream.read()
            sys.stderr.write(line)
            sys.stderr.flush()
    return ""


def _explain(words: str) -> str:
    dead = DEAD.search(words)
    who = ", ".join(dead[1].split()) if dead else "0"  # process 0 watches the others, and these watch it
    return (
        f"stopped: process {who} of this run has ended or cannot be reached; what it wrote says why. Start the same command "
        "again in all processes: the run goes on from its newest checkpoint"
    )
