"""The launcher on one machine with fake runs, with its starts, kills, resumed sweeps and messages."""

import contextlib
import csv
import fcntl
import json
import os
import pathlib
import pty
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments.sweep import local

ROOT = pathlib.Path(__file__).parents[3]
HEADER = """
from configs import common, sweeps

def get_config(variant=""):
    config = common.get_config()
    config.train.steps = 12
    config.wandb.mode = "disabled"
    return config

def sweep():
    return """


class Sweep:
    """A sweep of fake runs in a folder."""

    def __init__(self, folder: pathlib.Path, runs: str = "sweeps.seeds(3)", **behaviour):
        self.file, self.workdir = folder / "configs.py", folder / "sweep"
        self.workdir.mkdir(parents=True)
        self.define(runs)
        self.behave(**behaviour)

    def define(self, runs: str) -> None:
        self.file.write_text(HEADER + runs + "\n")

    def behave(self, **behaviour) -> None:
        """Set what runs do by seed, such as `_1={"fail": 3}`."""
        content = {seed.removeprefix("_"): own for seed, own in behaviour.items()}
        (self.workdir / "behaviour.json").write_text(json.dumps(content))

    def start(self, jobs: int = 2, **options) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.experiments.sweep.driver", self.file, self.workdir, str(jobs)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, **pipes)

    def finish(self, code: int = 0, jobs: int = 2) -> str:
        process = self.start(jobs)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == code, output + errors
        assert "Traceback" not in errors
        return output + errors

    def places(self) -> dict[str, pathlib.Path]:
        return {path.name.rsplit("-", 1)[0]: path for path in sorted(self.workdir.iterdir()) if path.is_dir()}

    def states(self) -> dict[str, str]:
        return {n: (p / "checkpoints" / "last" / "12" / "state").read_text() for n, p in self.places().items()}

    def starts(self, name: str) -> list[int]:
        """Return the process ids of a run's starts."""
        place = self.places().get(name)
        log = place / "output.log" if place else None
        return [int(pid) for pid in re.findall(r"^pid (\d+)", log.read_text(), re.M)] if log and log.exists() else []


def wait_for(condition, seconds: float = 30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
    return found


def read(path: pathlib.Path) -> str:
    return path.read_text() if path.exists() else ""


def alive(pid: int) -> bool:
    """Return whether a process runs, and is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


SLOW = {"sleep": 0.15}


def test_all_runs_finish_and_a_second_launch_starts_nothing(tmp_path):
    sweep = Sweep(tmp_path)
    output = sweep.finish()
    assert sweep.places().keys() == {"seed=0", "seed=1", "seed=2"}
    rows = list(csv.DictReader((sweep.workdir / "summary.csv").read_text().splitlines()))
    assert [(row["run"], row["state"], row["seed.init"]) for row in rows] == [
        (f"seed={seed}", "done", str(seed)) for seed in range(3)
    ]
    stored = json.loads((sweep.workdir / "sweep.json").read_text())["runs"]
    assert [own["directory"] for own in stored] == [path.name for path in sweep.places().values()]
    assert {own["last"] for own in stored} == {0.0} and "seed=2  done   12/12  val/mIoU" in output
    assert "running" not in sweep.finish()
    assert [len(sweep.starts(name)) for name in sweep.places()] == [1, 1, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_the_runs_save_and_the_same_command_resumes_them(tmp_path, number):
    sweep = Sweep(tmp_path, _0=SLOW, _1=SLOW)
    process = sweep.start()
    wait_for(lambda: [p for p in sweep.places().values() if "step" in read(p / "metrics.jsonl")][1:])
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and "start the same command again" in output
    saved = [
        max(int(p.name) for p in (sweep.places()[f"seed={seed}"] / "checkpoints/last").iterdir()) for seed in (0, 1)
    ]
    assert all(0 < step < 12 for step in saved) and sweep.starts("seed=2") == []
    assert json.loads((sweep.workdir / "sweep.json").read_text())["runs"][0]["state"] == "stopped"
    sweep.behave()
    sweep.finish()
    assert [len(sweep.starts(name)) for name in sweep.places()] == [2, 2, 1]


def test_second_ctrl_c_does_not_wait_for_the_runs(tmp_path):
    sweep = Sweep(tmp_path, "sweeps.seeds(1)", _0={"sleep": 60})
    process = sweep.start()
    (pid,) = wait_for(lambda: sweep.starts("seed=0"))
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping" in process.stdout.readline())
    assert process.poll() is None and alive(pid)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 75 and not alive(pid)


def test_runs_end_when_their_launcher_is_killed(tmp_path):
    sweep = Sweep(tmp_path, _0=SLOW, _1=SLOW)
    process = sweep.start()
    pids = wait_for(lambda: (both := sweep.starts("seed=0") + sweep.starts("seed=1"))[1:] and both)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, pids)), seconds=5)
    sweep.behave()
    sweep.finish()  # nothing holds a lock


def test_repeated_kills_do_not_change_the_results(tmp_path):
    runs = 'sweeps.seeds(4) + [{"name": "a", "optim.clip": 3.0}, {"name": "b", "init_from": sweeps.run("a")}]'
    calm, sweep, moments = Sweep(tmp_path / "calm", runs), Sweep(tmp_path / "killed", runs), random.Random(0)
    calm.finish()
    sweep.behave(**{f"_{seed}": {"sleep": 0.05} for seed in range(4)})

    def find_victims() -> list[int]:
        return [pid for name in sweep.places() for pid in sweep.starts(name)[-1:] if alive(pid)]

    for number in range(5):
        process = sweep.start()
        if number == 0:
            wait_for(find_victims)  # the first kill hits a run, however slow the machine is
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait((0.3 + moments.random()) * (number > 0))  # the launcher needs 0.2 s to start
        victims = find_victims()
        if victims and (number == 0 or moments.random() < 0.5):  # kill a run, then the launcher
            os.kill(moments.choice(victims), signal.SIGKILL)
            time.sleep(moments.random() / 2)
        process.kill()
        process.communicate()
    sweep.finish()
    assert sweep.states() == calm.states() and len(set(calm.states().values())) == 6
    assert sum(len(sweep.starts(name)) for name in sweep.places()) > 6


def test_a_failed_run_is_explained_and_the_others_continue(tmp_path):
    runs = """[
        {"name": "next", "seed.init": 7, "init_from": sweeps.run("first")},
        {"name": "first", "seed.init": 1}, {"name": "other", "seed.init": 2},
    ]"""
    sweep = Sweep(tmp_path, runs, _1={"fail": 6})
    output = sweep.finish(code=1)
    assert "first: failed: error: the loss of step 6 is nan" in output
    assert "next: not started: first failed" in output
    assert sweep.places().keys() == {"first", "other"}
    sweep.behave()
    sweep.finish()
    states = sweep.states()
    assert states.keys() == {"first", "other", "next"}
    given = json.loads((sweep.places()["next"] / "fields.json").read_text())
    assert given["config.init_from"] == str(sweep.places()["first"])


@pytest.mark.parametrize("quit", [0, 75, "kill"])
def test_a_run_stopped_from_outside_is_started_again(tmp_path, quit):
    sweep = Sweep(tmp_path, "sweeps.seeds(1)", _0={"step": 7, "quit": quit, "save": True})
    sweep.finish()
    assert len(sweep.starts("seed=0")) == 2


@pytest.mark.parametrize(("quit", "how"), [(0, "exit code 0"), (75, "exit code 75"), ("kill", "signal 9")])
def test_a_run_without_progress_is_not_started_forever(tmp_path, quit, how):
    sweep = Sweep(tmp_path, "sweeps.seeds(1)", _0={"step": 7, "quit": quit, "always": True})
    output = sweep.finish(code=1)
    assert "seed=0: failed: stopped" in output and how in output and "after step 4" in output
    assert len(sweep.starts("seed=0")) == 2, "the first start has saved step 4, the second nothing"


def test_a_second_launcher_reports_the_first_and_changes_nothing(tmp_path):
    sweep = Sweep(tmp_path, _0={"sleep": 60})
    process = sweep.start()
    wait_for(lambda: sweep.starts("seed=0"))
    output = sweep.finish(code=1)
    assert len(output.splitlines()) == 1 and f"process {process.pid}" in output and str(sweep.workdir) in output
    process.kill()
    process.communicate()


def test_the_launcher_waits_for_a_run_of_another_process(tmp_path):
    sweep = Sweep(tmp_path, "sweeps.seeds(1)", _0={"sleep": 60})
    process = sweep.start()
    wait_for(lambda: sweep.starts("seed=0"))
    process.kill()
    process.communicate()
    (place,) = sweep.places().values()
    sweep.behave()
    with open(place / ".lock") as lock:
        wait_for(lambda: not _refused(lock))
        process = sweep.start()
        assert "waiting" in process.stdout.readline() and "in use" in process.stdout.readline()
        assert len(sweep.starts("seed=0")) == 1
    process.communicate(timeout=30)
    assert process.returncode == 0 and len(sweep.starts("seed=0")) == 2


def _refused(lock) -> bool:
    try:
        return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) is not None
    except BlockingIOError:
        return True


def test_a_changed_sweep_adds_runs_and_overwrites_none(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.finish()
    before = {path: path.stat().st_mtime_ns for place in sweep.places().values() for path in place.rglob("*")}
    sweep.define('sweeps.product(sweeps.seeds(2), sweeps.grid({"optim.lr": (0.001, 0.1)}))')
    sweep.finish()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    stored = json.loads((sweep.workdir / "sweep.json").read_text())["runs"]
    assert len(stored) == 7 and all(own["state"] == "done" for own in stored), "the runs of the earlier file stay"
    header = (sweep.workdir / "summary.csv").read_text().splitlines()[0]
    assert header.endswith("seed.init,optim.lr")


def test_runs_are_distributed_over_gpus(tmp_path, monkeypatch):
    sweep = Sweep(tmp_path, _0=SLOW)  # the first still runs when the third starts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-af")
    monkeypatch.delenv("JAX_PLATFORMS")
    sweep.finish(jobs=3)
    seen = [re.search(r"pid \d+ (.*)", (p / "output.log").read_text())[1] for p in sweep.places().values()]
    assert sorted(seen) == ["4", "4", "GPU-af"]


def test_a_terminal_shows_a_table(tmp_path):
    sweep, (master, slave) = Sweep(tmp_path, _1={"fail": 3}), pty.openpty()
    process = sweep.start(stdout=slave, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"})
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the end of the terminal
        while part := os.read(master, 4096):
            shown += part
    assert process.wait(30) == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"3 runs: .*2 running.*\n run +state +step", text)
    assert "left" in text and "seed=1: failed: error: the loss of step 3 is nan" in text


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (
            "Traceback:\n  File\nAttributeError: no such thing\nNote: a library's remark\n",
            "AttributeError: no such thing",
        ),
        (
            "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: out of memory\n--------\nlast\n",
            "jax.errors.JaxRuntimeError: RESOURCE",
        ),
        ("ValueError: first\nerror: then\nlast\n", "error: then"),
        ("only words\n", "only words"),
        ("", "it printed nothing"),
    ],
)
def test_the_last_error_is_shown_without_the_lines_after_it(tmp_path, printed, shown):
    attempt = object.__new__(local.Attempt)  # an attempt without a process
    attempt.log, attempt.begin = tmp_path / "output.log", 0
    attempt.log.write_text(printed)
    assert attempt.last_line().startswith(shown)
