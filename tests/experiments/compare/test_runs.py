"""Runs are read from their directories, including unfinished and damaged runs."""

import errno
import fcntl
import json
import os
import pathlib
import subprocess
import sys

import pytest

from errors import UserError
from experiments.compare.runs import find_runs, is_smaller_better, read_run
from tests.conftest import ROOT
from tests.experiments.compare.synthetic import make_run


def test_scores_time_and_cost_equal_hand_computed_values(tmp_path):
    run = read_run(make_run(tmp_path / "a", scores=[{"mIoU": 0.7}, {"mIoU": 0.9}, {"mIoU": 0.8}]), "a")
    assert (run.state, run.step, run.steps, run.metric) == ("done", 30, 30, "val/mIoU")
    assert run.best("val/mIoU") == (20, 0.9) and run.last("val/mIoU") == 0.8
    assert run.best("train/loss") == (30, 1 / 3)  # smaller is better
    assert (run.hours, run.device_hours, run.images_per_second) == (2, 8, 20)
    assert run.training_flops == 1e12 * 4 * 30
    assert run.names == ["train/loss", "time/images_per_second", "val/mIoU", "val/IoU/circle", "val/IoU/square"]
    assert not run.problems


def test_undefined_scores_are_skipped(tmp_path):
    run = read_run(make_run(tmp_path, scores=[{"mIoU": 0.7}, {"mIoU": None}]), "a")
    assert run.last("val/mIoU") == 0.7 and run.values("val/mIoU") == {10: 0.7} and run.best("val/other") is None


def test_hours_cover_all_sessions(tmp_path):
    place = make_run(tmp_path)
    sessions = json.loads((place / "evidence.json").read_text())["sessions"]
    later = sessions[0] | {
        "started": "2026-01-02T00:00:00+00:00",
        "updated": "2026-01-02T00:30:00+00:00",
        "devices": {"count": 1},
    }
    (place / "evidence.json").write_text(json.dumps({"sessions": [*sessions, later]}))
    run = read_run(place, "a")
    assert (run.hours, run.device_hours) == (2.5, 8.5)


def test_members_divide_the_devices_and_their_time(tmp_path):
    """A member has 2 of 8 devices and shares them with two others."""
    devices = {"count": 8}
    run = read_run(make_run(tmp_path, devices=devices, devices_of_run=2, runs_on_devices=3), "a")
    assert run.hours == 2 and run.device_hours == pytest.approx(2 * 2 / 3) and run.training_flops == 1e12 * 2 * 10


def test_running_and_unfinished_runs_are_recognised(tmp_path):
    place = make_run(tmp_path, fields={"train.steps": 100})
    assert read_run(place, "a").state == "unfinished"
    with open(place / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(place, "a").state == "running"


def test_pipes_are_a_problem_and_do_not_block(tmp_path):
    place = make_run(tmp_path)
    os.mkfifo(place / ".lock")
    (place / "metrics.jsonl").unlink()
    os.mkfifo(place / "metrics.jsonl")
    run = read_run(place, "a")
    assert run.state == "unfinished"
    assert [problem for problem in run.problems if problem.startswith("metrics.jsonl is a pipe")]


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("evidence.json", "{", "evidence.json is not JSON"),
        ("evidence.json", "[]", "evidence.json does not hold an object of JSON"),
        ("evidence.json", None, "evidence.json is missing"),
        ("config.json", "nonsense", "config.json is not JSON"),
        ("metrics.jsonl", None, "metrics.jsonl cannot be read: No such file"),
        (
            "metrics.jsonl",
            '{"step": 1, "val/mIoU": 0.5}\nnonsense\n[1]\n{"step": 2, "val/',
            "2 damaged lines are skipped",
        ),
        (
            "metrics.jsonl",
            '{"step": 1, "val/mIoU": 0.5}\n{"step": true}\n{"step": 1}\n{"step": 2, "a": NaN}\n{"step": 2, "a": 1e400}\n',
            "4 damaged lines are skipped",
        ),
    ],
)
def test_a_damaged_file_is_a_problem_of_its_run(tmp_path, file, content, problem):
    place = make_run(tmp_path)
    (place / file).unlink() if content is None else (place / file).write_text(content)
    run = read_run(place, "a")
    assert len(run.problems) == 1 and problem in run.problems[0]
    assert [
        run.state,
        run.hours,
        run.device_hours,
        run.training_flops,
        run.best("val/mIoU"),
        run.names,
    ]  # none of them raises
    assert run.rows == [{"step": 1, "val/mIoU": 0.5}] if "skipped" in problem else True


@pytest.mark.parametrize("sessions", [[{}], [{"started": "yesterday"}], [{"started": 3}], "nonsense", [7]])
def test_invalid_sessions_have_no_hours(tmp_path, sessions):
    place = make_run(tmp_path)
    (place / "evidence.json").write_text(json.dumps({"sessions": sessions}))
    run = read_run(place, "a")
    assert run.hours is None and run.device_hours is None and run.images_per_second is None


def test_runs_sweeps_and_members_are_found(tmp_path):
    make_run(tmp_path / "sweep" / "lr=1-3f9a1c")
    make_run(tmp_path / "sweep" / "lr=2-aaaaaa")
    make_run(tmp_path / "together", fields={"members": 2})
    for seed in (0, 1):
        make_run(tmp_path / "together" / f"seed={seed}", fields={"seed.init": seed})
    make_run(tmp_path / "other" / "seed=0")
    runs = find_runs([str(tmp_path / name) for name in ("sweep", "together", "other/seed=0", "sweep/lr=1-3f9a1c")])
    names = [run.name for run in runs]
    assert names == ["sweep/lr=1-3f9a1c", "sweep/lr=2-aaaaaa", "together/seed=0", "together/seed=1", "other/seed=0"]
    assert [run.name for run in find_runs([str(tmp_path / "sweep")])] == ["lr=1-3f9a1c", "lr=2-aaaaaa"]


def test_folder_without_a_run_raises_an_error(tmp_path):
    with pytest.raises(
        UserError, match="has no run, and no folder in it has one; name the --workdir of a run or a sweep"
    ):
        find_runs([str(tmp_path)])
    with pytest.raises(UserError, match="nowhere is not a folder"):
        find_runs([str(tmp_path / "nowhere")])


def test_links_to_a_run_are_the_same_run(tmp_path):
    """Otherwise a run counts as two seeds that agree perfectly."""
    own = make_run(tmp_path / "sweep" / "a")
    (tmp_path / "sweep" / "latest").symlink_to(own)
    assert [run.name for run in find_runs([str(tmp_path / "sweep"), str(own)])] == ["a"]


def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    make_run(tmp_path / "a")
    (tmp_path / "secret").mkdir()
    stat = pathlib.Path.stat

    def refuse(path, **how):
        if "secret" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **how)

    monkeypatch.setattr(pathlib.Path, "stat", refuse)
    with pytest.raises(UserError, match="secret/config.json cannot be read: Permission denied; make it readable, or"):
        find_runs([str(tmp_path)])


def test_names_of_runs_cannot_control_a_terminal(tmp_path):
    make_run(tmp_path / "a\x1b[31m\nb")
    assert [run.name for run in find_runs([str(tmp_path)])] == ["a?[31m?b"]


def test_smaller_is_better_for_errors_and_losses():
    smaller = [
        "val/loss",
        "train/loss",
        "val/pixel_error",
        "time/input_wait",
        "val/cross_entropy",
        "val/classification",
    ]
    assert all(map(is_smaller_better, smaller))
    larger = ["val/mIoU", "val/AP/loss", "time/images_per_second", "val/Dice", "val/IoU/masks"]
    assert not any(map(is_smaller_better, larger))


def test_reading_runs_imports_no_jax():
    heavy = "('jax', 'flax', 'optax', 'wandb')"
    code = f"import sys, experiments.compare.__main__; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
