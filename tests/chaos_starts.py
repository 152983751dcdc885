"""Starts of main.py for chaos.py, with scenarios and rules for their messages."""

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tests.conftest import ROOT
from tests.processes import find_port

LONGEST = 400  # seconds that a start may take on a busy machine
STEPS = 12
# Evaluations and checkpoints fall on different steps. The number of steps changes no learning rate.
TRAIN = dict(steps=STEPS, checkpoint_every=3, eval_every=4, log_every=1)
SHORT = ["--config.data.eval_split=validation[:8]", "--config.data.train_split=train[:64]"]
CONSTANT = ["--config.optim.schedule=constant", "--config.optim.warmup_steps=0", "--config.wandb.mode=disabled"]
MAY_SAY = ("warning: ", "stopped: ", "[Gloo] ")  # beginnings of lines on stderr of a start that has not failed
# What XLA writes when a busy machine takes two minutes to compile something.
ALARM = re.compile(r"E\d+ .*slow_operation_alarm\.cc|\*{32}$|\[Compiling module .* Very slow compile\?")
UNFINISHED = 75
INTERPRETER = 5  # seconds until Python runs the first line of main.py on a busy machine
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """The training of a round, an experiment with changed fields, processes and members."""

    config: str
    fields: tuple[str, ...] = ()
    processes: int = 1
    members: int = 1

    def runs(self, workdir: pathlib.Path) -> list[pathlib.Path]:
        """Return the directories of the runs in `workdir`."""
        return [workdir / f"seed={seed}" for seed in range(self.members)] if self.members > 1 else [workdir]


SCENARIOS = {
    "segmentation": Scenario("unet_shapes"),
    "accumulation": Scenario("unet_shapes", ("optim.accumulate=2",)),
    "moving average": Scenario("unet_shapes", ("optim.ema=0.9", "optim.name=sgd")),
    "detection": Scenario("yolov1_shapes"),
    "two stages": Scenario("faster_rcnn_shapes"),
    "members": Scenario("unet_shapes", ("members=2",), members=2),
    "two processes": Scenario("unet_shapes", processes=2),
}


class Start:
    """One start of a scenario, in all its processes."""

    def __init__(
        self,
        scenario: Scenario,
        workdir: pathlib.Path | str,
        data_dir: pathlib.Path,
        flags: Sequence[str] = (),
        largest_file: int | None = None,
        environment: dict[str, str] | None = None,
    ):
        """Start all processes. `largest_file` limits the size of files in bytes, as a full disk does."""
        train = [f"--config.train.{name}={value}" for name, value in TRAIN.items()]
        own = [f"--config.{field}" for field in scenario.fields]
        command = [] if largest_file is None else [sys.executable, "-c", LIMITED, str(largest_file)]
        command += [sys.executable, "main.py", f"--config=configs/{scenario.config}.py:debug", f"--workdir={workdir}"]
        given = {flag.partition("=")[0] for flag in flags}  # replace the scenario's, as no flag may occur twice
        usual = [f"--tfds_data_dir={data_dir}", *SHORT, *CONSTANT, *train, *own]
        command += [*(flag for flag in usual if flag.partition("=")[0] not in given), *flags]
        port = find_port()
        self.began = time.monotonic()
        self.processes = [
            subprocess.Popen(
                [*command, *(self._place(rank, scenario.processes, port))],
                cwd=ROOT,
                # jax warns about its cache of compiled programs, which faults damage too.
                env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"} | (environment or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            for rank in range(scenario.processes)
        ]
        self.sent: int | None = None

    @staticmethod
    def _place(rank: int, count: int, port: int) -> list[str]:
        return [f"--coordinator=localhost:{port}", f"--processes={count}", f"--process={rank}"] if count > 1 else []

    def is_running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def wait_for(self, moment: Callable[[], bool]) -> None:
        """Wait until the moment has come, or a process has ended."""
        while self.is_running() and not moment():
            assert time.monotonic() < self.began + LONGEST, "the moment does not come"
            time.sleep(0.005)

    def send(self, number: int, rank: int = 0) -> None:
        self.sent, self.age = number, time.monotonic() - self.began
        if self.processes[rank].poll() is None:
            self.processes[rank].send_signal(number)

    def finish(self) -> tuple[int, str]:
        """Wait for the end, check exit code and stderr of each process, and return both."""
        ended = [process.communicate(timeout=LONGEST) for process in self.processes]
        codes = [process.returncode for process in self.processes]
        said = "".join(errors for _, errors in ended)
        for code, (_, errors) in zip(codes, ended, strict=True):
            self._check(code, errors)
        failed = [code for code in codes if code not in (0, UNFINISHED)]
        return (failed or sorted(codes, reverse=True))[0], said

    def _check(self, code: int, said: str) -> None:
        """Check that there is no traceback, and one error line if the process failed, else none."""
        lines = [line for line in said.splitlines() if line.strip() and not ALARM.match(line)]
        assert "Traceback" not in said, said
        if code < 0:  # killed, or a signal before the first line of main.py
            assert -code == signal.SIGKILL or (-code == self.sent and self.age < INTERPRETER), (code, said)
            return
        assert code in (0, 1, UNFINISHED), (code, said)
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == (code == 1), said
        others = [line for line in lines if not line.startswith(("error: ", *MAY_SAY))]
        assert not others, said
