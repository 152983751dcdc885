"""main.py in several processes gives the run of one process, even if a process is killed or stopped."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from experiments.run.checkpoints import Checkpoints
from experiments.run.checksums import sum_parts
from tests.experiments.run.test_processes import assert_close, rows
from tests.processes import start_main
from tests.test_resume import digest, wait_for

FIELDS = ("steps=12", "checkpoint_every=3", "eval_every=6", "log_every=1")
SGD = ("--config.optim.name=sgd", "--config.optim.lr=0.05")  # adam amplifies the rounding of small gradients
TOGETHER = (2, 2)


def flags(workdir: pathlib.Path, data_dir: str, config: str = "unet_shapes", *fields: str) -> list[str]:
    own = [f"--config=configs/{config}.py:debug", f"--workdir={workdir}", f"--tfds_data_dir={data_dir}", *SGD]
    return [*own, "--config.train.batch_size=4", *(f"--config.train.{field}" for field in FIELDS), *fields]


def finish(running: list[subprocess.Popen], *codes: int) -> list[str]:
    """Wait for processes, check their exit codes (default 0), and return the output of each, with errors."""
    said = ["".join(process.communicate(timeout=300)) for process in running]
    found = [process.returncode for process in running]
    assert found == list(codes or [0] * len(running)), said
    return said


def train(
    workdir: pathlib.Path, data_dir: str, count: int, devices: int, *fields: str, config: str = "unet_shapes"
) -> None:
    finish(start_main(count, devices, *flags(workdir, data_dir, config, *fields)))


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir) -> pathlib.Path:
    """A run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train(workdir, data_dir, 1, 4)
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory, data_dir) -> pathlib.Path:
    """A run of two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    train(workdir, data_dir, *TOGETHER, "--config.wandb.mode=offline")
    return workdir


@pytest.mark.slow
def test_two_processes_of_two_devices_equal_one_of_four(alone, together):
    assert_close(rows(together), rows(alone))
    assert any("val/mIoU" in row for row in rows(together))
    evidence = json.loads((together / "evidence.json").read_text())["sessions"][0]
    assert (evidence["devices"]["processes"], evidence["devices"]["count"]) == (2, 4)
    assert len(list((together / "wandb").glob("offline-run-*"))) == 1, "one W&B run"


@pytest.mark.slow
def test_a_detector_scores_the_same(tmp_path, data_dir):
    for name, (count, devices) in {"alone": (1, 4), "together": TOGETHER}.items():
        # A low learning rate. With 0.05 the gradient norm is 19, and rounding errors grow from step to step.
        train(tmp_path / name, data_dir, count, devices, "--config.optim.lr=0.001", config="ssd_shapes")
    assert_close(rows(tmp_path / "together"), rows(tmp_path / "alone"))
    assert any("val/AP" in row for row in rows(tmp_path / "together"))


def start_and_wait(workdir: pathlib.Path, data_dir: str, step: int) -> list[subprocess.Popen]:
    """Start a run of two processes, and wait for the checkpoint of a step."""
    running = start_main(*TOGETHER, *flags(workdir, data_dir))
    wait_for(lambda: (workdir / "checkpoints" / "last" / str(step)).exists(), running[0], 240)
    return running


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_process_is_one_line_of_the_other_and_the_run_resumes(together, tmp_path, data_dir, victim):
    workdir = tmp_path / "run"
    running = start_and_wait(workdir, data_dir, 3)
    running[victim].kill()  # its child, which trains, ends with it
    began = time.monotonic()
    survivor = running[1 - victim]
    said = "".join(survivor.communicate(timeout=90))
    assert time.monotonic() - began < 60 and survivor.returncode == 75
    assert said.splitlines()[-1].startswith(f"stopped: process {victim} of this run has ended or cannot be reached")
    assert "Traceback" not in said and "Check failure" not in said
    running[victim].communicate()
    finish(start_main(*TOGETHER, *flags(workdir, data_dir)))
    assert digest(workdir) == digest(together) and rows(workdir) == rows(together)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_of_one_process_saves_one_common_step(together, tmp_path, data_dir, number):
    workdir = tmp_path / "run"
    running = start_and_wait(workdir, data_dir, 3)
    running[1].send_signal(number)
    said = finish(running, 75, 75)
    (step,) = re.findall(r"stopped with the other processes: step (\d+) is saved", said[0])
    assert max(int(path.name) for path in (workdir / "checkpoints" / "last").iterdir()) == int(step) < 12
    finish(start_main(*TOGETHER, *flags(workdir, data_dir)))
    assert digest(workdir) == digest(together) and rows(workdir) == rows(together)


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_other_processes(tmp_path, data_dir):
    running = start_and_wait(tmp_path / "run", data_dir, 3)
    running[0].send_signal(signal.SIGINT)
    time.sleep(0.05)
    running[0].send_signal(signal.SIGINT)
    began = time.monotonic()
    finish(running, 75, 75)
    assert time.monotonic() - began < 90  # jax itself would wait 300 s for the others


@pytest.mark.slow
def test_the_time_limit_stops_all_processes_at_the_same_step(tmp_path, data_dir):
    said = finish(
        start_main(
            *TOGETHER,
            *flags(tmp_path / "run", data_dir),
            "--config.train.steps=10000",
            "--config.train.max_minutes=0.7",
        ),
        75,
        75,
    )
    assert "stopped by train.max_minutes=0.7" in said[0]


@pytest.mark.slow
def test_resumed_run_has_the_same_samples_on_other_devices_and_processes(alone, tmp_path, data_dir):
    """The run moves from 1 to 2 and 4 devices, to two processes, and back. Each part resumes the one before."""
    workdir = tmp_path / "run"
    for step, (count, devices) in ((3, (1, 1)), (6, (1, 2)), (9, TOGETHER), (12, (1, 1))):
        running = start_main(count, devices, *flags(workdir, data_dir))
        if step < 12:
            wait_for(lambda: (workdir / "checkpoints" / "last" / str(step)).exists(), running[0], 240)  # noqa: B023
        for process in running if step < 12 else ():
            process.send_signal(signal.SIGTERM)
        codes = {process.wait(timeout=240) for process in running}
        assert codes <= {0, 75}
        cut_to(workdir, step)
    assert_close(rows(workdir), rows(alone))
    sessions = json.loads((workdir / "evidence.json").read_text())["sessions"]
    assert [own["devices"]["count"] for own in sessions] == [1, 2, 4, 1]


def cut_to(workdir: pathlib.Path, step: int) -> None:
    """Remove everything that a run saved after a step."""
    for path in (workdir / "checkpoints" / "last").iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)


@pytest.mark.slow
def test_parameters_split_over_fsdp_give_the_same_run(alone, tmp_path, data_dir):
    train(tmp_path / "run", data_dir, 1, 4, "--config.mesh=(1,1,-1)")
    assert_close(rows(tmp_path / "run"), rows(alone))


@pytest.mark.slow
def test_checksums_of_parameters_split_over_processes_fit_any_layout(alone, tmp_path, data_dir):
    mesh = "--config.mesh=(1,1,-1)"
    workdir = tmp_path / "run"
    running = start_main(*TOGETHER, *flags(workdir, data_dir), mesh)
    wait_for(lambda: (workdir / "checkpoints" / "last" / "6").exists(), running[0], 240)
    running[0].send_signal(signal.SIGTERM)
    assert {process.wait(timeout=240) for process in running} <= {0, 75}
    arrays, notes = Checkpoints(workdir, read_only=True).read()
    assert notes["sha256"] is None and notes["sums"] == sum_parts(arrays)
    finish(start_main(*TOGETHER, *flags(workdir, data_dir), mesh))
    assert_close(rows(workdir), rows(alone))


@pytest.mark.slow
def test_a_user_error_in_one_process_ends_all(tmp_path, data_dir):
    running = start_main(*TOGETHER, *flags(tmp_path / "run", data_dir), last=["--config.optim.lr=-1.0"])
    first, second = finish(running, 75, 1)
    assert "error: config.optim.lr=-1.0" in second and "Traceback" not in second
    assert first.splitlines()[-1].startswith("stopped: process 1 of this run has ended")
