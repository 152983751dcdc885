"""Sweeps of real runs, which end alike with and without kills, and the commands of docs/sweeps.md."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments.sweep.state import read_state
from tests.experiments.sweep.test_local import alive, wait_for
from tests.test_docs import commands_of
from tests.test_resume import digest, metrics

ROOT = pathlib.Path(__file__).parents[3]
OWN = """
from configs import sweeps
from tests import small_unet

def get_config(variant=""):
    config = small_unet.get_config()
    config.train.update(steps={steps}, eval_every=3, checkpoint_every=2)
    return config

def sweep():
    return {runs}
"""


def command(file: pathlib.Path, workdir: pathlib.Path, data_dir: str) -> list[str]:
    flags = [f"--config={file}", f"--workdir={workdir}", f"--tfds_data_dir={data_dir}"]
    return [sys.executable, "-m", "experiments.sweep", *flags]


def finish(*arguments) -> str:
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def places(workdir: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in workdir.iterdir() if path.is_dir())


@pytest.mark.slow
def test_main_and_the_launcher_agree_on_done(tmp_path, data_dir):
    (tmp_path / "own.py").write_text(OWN.format(steps=3, runs='[{"name": "only"}]'))
    arguments = tmp_path / "own.py", tmp_path / "sweep", data_dir
    assert "only: done, step 3/3, val/mIoU" in finish(*arguments)
    (place,) = places(tmp_path / "sweep")
    state = read_state(place)
    assert state.done and state.best[0] == 3 and state.seconds > 0
    before = (place / "output.log").read_bytes()
    finish(*arguments)
    assert (place / "output.log").read_bytes() == before


@pytest.mark.slow
def test_runs_after_five_kills_are_bit_identical(tmp_path, data_dir):
    runs = 'sweeps.seeds(2) + [{"name": "next", "init_from": sweeps.run("first")}, {"name": "first", "optim.lr": 0.01}]'
    (tmp_path / "own.py").write_text(OWN.format(steps=12, runs=runs))
    calm, killed, moments = tmp_path / "calm", tmp_path / "killed", random.Random(13)
    finish(tmp_path / "own.py", calm, data_dir)
    for _ in range(5):
        launcher = subprocess.Popen(command(tmp_path / "own.py", killed, data_dir), cwd=ROOT, stdout=subprocess.DEVNULL)
        pids = wait_for(lambda: children(launcher.pid))  # noqa: B023 - called at once
        time.sleep(moments.uniform(1, 10))
        pids = children(launcher.pid) or pids
        if moments.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)
            time.sleep(moments.uniform(0, 3))
            pids += children(launcher.pid)
        launcher.kill()
        launcher.wait()
        wait_for(lambda: not any(map(alive, pids)), seconds=5)  # noqa: B023
    finish(tmp_path / "own.py", killed, data_dir)
    assert [path.name for path in places(killed)] == [path.name for path in places(calm)] and len(places(calm)) == 4
    for one, other in zip(places(killed), places(calm), strict=True):
        assert digest(one) == digest(other) and digest(one, "best") == digest(other, "best")
        assert metrics(one) == metrics(other)
    assert len({digest(place) for place in places(calm)}) == 4
    starts = [(place / "output.log").read_text().count("\n--- ") + 1 for place in places(killed)]
    assert sum(starts) >= 4 + 3, f"{starts}: the kills hit no run"


def children(pid: int) -> list[int]:
    """Return the children of a process without the one that resolves configs."""
    found = [path.parent for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
    own = []
    for place in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = (place / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) == pid and b"resolution" not in (place / "cmdline").read_bytes():
                own.append(int(place.name))
    return own


@pytest.mark.slow
def test_a_killed_search_of_real_runs_resumes(tmp_path, data_dir):
    own = OWN.replace("def sweep()", "def search()").format(
        steps=6, runs='{"optim.lr": sweeps.log_uniform(1e-3, 0.1), "model.width": sweeps.choice([4, 8])}'
    )
    (tmp_path / "own.py").write_text(own)
    line = [*command(tmp_path / "own.py", tmp_path / "search", data_dir), "--search=optuna"]
    launcher = subprocess.Popen([*line, "--trials=3"], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: list((tmp_path / "search").glob("*/checkpoints/last/2")), seconds=120)
    launcher.kill()
    launcher.wait()
    done = subprocess.run([*line, "--trials=3"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = places(tmp_path / "search")
    assert len(found) == 3 and all(read_state(place).done for place in found)
    starts = [(place / "output.log").read_text().count("\n--- ") + 1 for place in found]
    assert sorted(starts) == [1, 1, 2]
    assert {json.loads((place / "config.json").read_text())["model"]["width"] for place in found} == {4, 8}
    best = max(found, key=lambda place: read_state(place).best[1])
    *_, named, evaluation = done.stdout.splitlines()
    assert named == f"best: {best.name.rsplit('-', 1)[0]}: val/mIoU {read_state(best).best[1]:.4f}"
    evaluated = subprocess.run(evaluation, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert evaluated.returncode == 0 and "mIoU" in evaluated.stdout, evaluated.stderr


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, data_dir):
    # test_slurm.py tests the command for SLURM.
    lines = [line for line in commands_of("docs/sweeps.md") if "pip install" not in line and "slurm" not in line]
    modules = [re.search(r"-m (\S+)", line)[1].removeprefix("experiments.") for line in lines]
    assert modules == ["sweep", "sweep", "sweep", "sweep.state", "sweep", "sweep"]
    (tmp_path / "runs").mkdir()
    for line in lines:
        line = line.replace("'|'", "|").replace("configs/unet_shapes.py", "configs/unet_shapes.py:debug")
        line = line.replace("=data", f"={data_dir}").replace("runs/", f"{tmp_path}/runs/").replace("=20", "=2")
        if line.endswith("NAME"):
            line = line.replace("NAME", places(tmp_path / "runs" / "rates")[0].name)
        done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads((tmp_path / "runs" / "rates" / "sweep.json").read_text())["runs"]
    assert [own["state"] for own in stored] == ["done"] * 4
