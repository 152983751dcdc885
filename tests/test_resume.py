"""Tests that a run that is killed anywhere and started again ends bit for bit like an uninterrupted one."""

import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from experiments.run import checkpoints
from tests.main_server import run_main

ROOT = pathlib.Path(__file__).parents[1]
FIELDS = [
    "--config=tests/small_unet.py",
    "--config.train.steps=16",
    "--config.train.checkpoint_every=4",
    "--config.train.eval_every=5",
    "--config.optim.ema=0.9",
    # Draws of each step, which a resumed run must repeat.
    "--config.model.dropout=0.5",
    "--config.data.augment.rotation=20.0",
    "--config.data.augment.brightness=0.3",
]


def arguments(workdir: pathlib.Path, data_dir: str) -> list[str]:
    return [f"--workdir={workdir}", f"--tfds_data_dir={data_dir}", *FIELDS]


def start(workdir: pathlib.Path, data_dir: str) -> subprocess.Popen:
    command = [sys.executable, "main.py", *arguments(workdir, data_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(workdir: pathlib.Path, data_dir: str) -> str:
    done = run_main(*arguments(workdir, data_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def digest(workdir: pathlib.Path, kind: str = "last") -> tuple[int, str]:
    """Return the step of the newest checkpoint and the SHA-256 of its arrays."""
    arrays, notes = checkpoints.Checkpoints(workdir, read_only=True).read(kind)
    return notes["step"], checkpoints.digest(arrays)


def metrics(workdir: pathlib.Path) -> list[dict]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def lines(workdir: pathlib.Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saving(workdir: pathlib.Path, step: int) -> bool:
    """Return whether the checkpoint of a step is being written, and has a temporary folder."""
    return any((workdir / "checkpoints").glob(f"*/{step}.*tmp*"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, data_dir) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(workdir, data_dir)
    return workdir


def assert_same(workdir: pathlib.Path, reference: pathlib.Path) -> None:
    assert digest(workdir) == digest(reference)
    assert digest(workdir, "best") == digest(reference, "best")
    assert metrics(workdir) == metrics(reference)
    assert [row["step"] for row in metrics(workdir)] == list(range(1, 17))
    assert (workdir / "records" / "val.jsonl").read_bytes() == (reference / "records" / "val.jsonl").read_bytes()


def kill(workdir: pathlib.Path, data_dir: str, moment: Callable[[], bool]) -> None:
    process = start(workdir, data_dir)
    wait_for(moment, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_run_that_is_killed_twice_ends_bit_for_bit_the_same(uninterrupted, tmp_path, data_dir):
    workdir = tmp_path / "run"
    kill(workdir, data_dir, lambda: saving(workdir, 8))
    kill(workdir, data_dir, lambda: lines(workdir) >= 14)  # beyond the newest checkpoint
    # As if the last kill had also torn a line.
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 15, "train/lo')
    assert "resumed" in finish(workdir, data_dir)
    assert_same(workdir, uninterrupted)


@pytest.mark.slow
def test_a_run_that_is_killed_before_its_first_checkpoint_ends_bit_for_bit_the_same(uninterrupted, tmp_path, data_dir):
    workdir = tmp_path / "run"
    kill(workdir, data_dir, lambda: lines(workdir) >= 3)
    finish(workdir, data_dir)
    assert_same(workdir, uninterrupted)


@pytest.mark.slow
def test_a_run_saves_and_exits_with_75_on_sigterm(uninterrupted, tmp_path, data_dir):
    workdir = tmp_path / "run"
    process = start(workdir, data_dir)
    wait_for(lambda: lines(workdir) >= 6, process)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75, errors
    assert time.monotonic() - began < 10
    step, _ = digest(workdir)
    assert step >= 6 and lines(workdir) in (step, step - 1)
    assert f"at step {step} of 16" in finish(workdir, data_dir)
    assert_same(workdir, uninterrupted)
