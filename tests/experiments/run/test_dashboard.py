"""The files that the real W&B package writes, read back with its own reader."""

import contextlib
import functools
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from configs.common import get_config
from experiments.pictures.png import write_png
from experiments.run import dashboard
from experiments.run.dashboard import Dashboard
from experiments.run.follower import Follower
from experiments.run.metrics_file import MetricsFile

WANDB = [sys.executable, "-m", "wandb"]
BEST = {"score": "val/mIoU", "smaller_is_better": False}
GIT = {"commit": "0123456789", "dirty": False}
ID = "0123456789abcdef"


@pytest.fixture
def workdir(tmp_path, no_account):
    """A run directory, without W&B accounts or settings of this machine."""
    folder = tmp_path / "lr=0.001,seed=2"
    folder.mkdir()
    config = get_config()
    config.wandb.update(mode="offline", group="lr", tags=("one", "two"))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "wandb_id").write_text(f"{ID}\n")
    session = {"git": GIT, "parameters": 12, "best": BEST, "started": "today"}
    (folder / "evidence.json").write_text(json.dumps({"sessions": [session]}))
    return folder


def open_dashboard(workdir) -> Dashboard:
    return Dashboard(workdir, json.loads((workdir / "config.json").read_text()), ID, "offline")


def folders(workdir) -> list:
    return sorted((workdir / "wandb").glob("offline-run-*"))


@functools.cache
def inspect(folder, *flags) -> str:
    command = [*WANDB, "leet", "inspect", str(folder), "--json", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def records(folder, kind: str) -> list[dict]:
    return [row[kind] for row in map(json.loads, inspect(folder).splitlines()) if row["type"] == kind]


def history(folder) -> list[dict]:
    """Return the rows of an offline folder, without the fields that W&B adds."""
    found = []
    for record in records(folder, "history"):
        assert record["step"]["num"] == record["item"]["step"] == record["item"]["_step"]
        found.append({name: value for name, value in record["item"].items() if not name.startswith("_")})
    return found


@pytest.mark.slow
def test_a_resumed_run_is_one_run_whose_folders_share_no_step(workdir):
    """The follower writes only rows to the later folder that are not in the earlier one."""
    metrics = MetricsFile(workdir / "metrics.jsonl")
    running = Follower(workdir, get_config().wandb, 20.0)
    running.start()
    write_png(workdir / "predictions" / "10.png", np.zeros((4, 6, 3), np.uint8))
    (workdir / "predictions" / "10.csv").write_text("class,IoU\nsky,0.25\ntree,\n")
    media = {"val/examples": "predictions/10.png", "val/classes": "predictions/10.csv"}
    metrics.append(10, {"val/mIoU": 0.5, "val/IoU/sky": 0.25, "rates": [0.5, 0.25]} | media)
    metrics.append(20, {"train/loss": 0.25})
    running.close(20.0, outcome="stopped")
    metrics.cut(10)
    with Follower(workdir, get_config().wandb, 20.0):
        metrics.append(20, {"train/loss": 0.25})
        metrics.append(30, {"train/loss": 0.125, "val/mIoU": 0.25, "val/IoU/sky": 0.125})
    first, second = folders(workdir)
    drawn, plain = history(first)
    kinds = {name: drawn[f"{name}._type"] for name in media}
    assert kinds == {"val/examples": "image-file", "val/classes": "table-file"}
    assert drawn["val/examples.width"] == 6 and (drawn["val/classes.nrows"], drawn["val/classes.ncols"]) == (2, 2)
    assert all((first / "files" / drawn[f"{name}.path"]).is_file() for name in media)
    drawn = {name: value for name, value in drawn.items() if not name.startswith(tuple(media))}
    assert drawn == {"step": 10, "val/mIoU": 0.5, "val/IoU/sky": 0.25, "rates": [0.5, 0.25]}
    assert plain == {"step": 20, "train/loss": 0.25}
    assert history(second) == [{"step": 30, "train/loss": 0.125, "val/mIoU": 0.25, "val/IoU/sky": 0.125}]
    # `wandb sync` joins folders with the same id and project to one run, in order of time.
    (one,), (other,) = records(first, "run"), records(second, "run")
    assert one["run_id"] == other["run_id"] == ID and one["project"] == other["project"]
    assert one["start_time"] < other["start_time"]
    assert records(first, "preempting") and not records(second, "preempting")
    assert [records(folder, "exit")[0].get("exit_code", 0) for folder in (first, second)] == [75, 0]


def test_the_workspace_has_axes_groups_and_the_best_score(workdir):
    session = open_dashboard(workdir)
    session.send([{"step": 10, "train/loss": 0.5, "val/mIoU": 0.75}, {"step": 20, "train/loss": 0.25, "val/mIoU": 0.5}])
    session.finish("finished")
    (folder,) = folders(workdir)
    (run,) = records(folder, "run")
    assert (run["display_name"], run["run_group"], run["job_type"]) == ("lr=0.001,seed=2", "lr", "train")
    assert run["tags"] == ["one", "two"]
    config = run["config"]["update"]
    assert config["optim"]["lr"] == 0.001 and config["evidence"] == {"git": GIT, "parameters": 12}
    axes = {metric.get("name") or metric["glob_name"]: metric for metric in records(folder, "metric")}
    sections = {"train/*", "val/*", "time/*"}
    assert axes.keys() == sections | {"step", "val/mIoU"}
    assert all(axes[name]["step_metric"] == "step" for name in (*sections, "val/mIoU"))
    assert axes["val/mIoU"]["summary"] == {"max": True}
    summary = json.loads(inspect(folder, "--summary"))["summary"]
    assert {name: value for name, value in summary.items() if name[0] != "_"} == {
        "step": 20,
        "train/loss": 0.25,
        "val/mIoU": {"max": 0.75},
    }


@pytest.mark.parametrize(("smaller", "expected"), [(False, {"max": 0.75}), (True, {"min": 0.25})])
def test_the_best_score_covers_all_sessions(workdir, smaller, expected):
    session = {"best": {"score": "val/mIoU", "smaller_is_better": smaller}}
    (workdir / "evidence.json").write_text(json.dumps({"sessions": [session]}))
    rows = [{"step": step, "val/mIoU": value} for step, value in ((1, 0.25), (2, 0.75), (3, None), (4, 0.5))]
    for end in (2, 4):
        opened = open_dashboard(workdir)
        opened.send(rows[:end])
        opened.finish("finished")
    assert json.loads(inspect(folders(workdir)[-1], "--summary"))["summary"]["val/mIoU"] == expected


@pytest.fixture
def crashed(workdir):
    """Return a run whose session sent steps 1 to 5 and stored them in the cursor."""
    session = open_dashboard(workdir)
    session.send([{"step": step, "train/loss": 0.5} for step in range(1, 6)])
    session.finish("failed")
    return workdir


def resume(workdir, last: int = 6) -> list[list[int]]:
    """Run a session with the steps up to `last`, and return the steps in each folder."""
    session = open_dashboard(workdir)
    session.send([{"step": step, "train/loss": 0.5} for step in range(1, last + 1)])
    session.finish("finished")
    found = [list(dashboard.stored_steps(next(folder.glob("*.wandb")))) for folder in folders(workdir)]
    assert found[1] == [row["step"] for row in history(folders(workdir)[1])]
    return found


def test_rows_lost_by_a_power_cut_are_sent_again(crashed):
    (file,) = folders(crashed)[0].glob("*.wandb")
    whole = file.read_bytes()
    sizes = range(len(whole), 0, -41)
    file.write_bytes(whole[: next(size for size in sizes if len(list(steps_of(file, whole[:size]))) == 3)])
    assert resume(crashed) == [[1, 2, 3], [4, 5, 6]]


def steps_of(file, content: bytes):
    file.write_bytes(content)
    return dashboard.stored_steps(file)


def test_reading_stops_at_a_torn_or_damaged_record(crashed):
    (file,) = folders(crashed)[0].glob("*.wandb")
    whole = file.read_bytes()
    for size in range(0, len(whole), 41):
        found = list(steps_of(file, whole[:size]))
        assert found == list(range(1, len(found) + 1))
    middle = len(whole) // 2
    assert len(list(steps_of(file, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]))) < 5
    assert list(steps_of(file, whole + bytes(100))) == [1, 2, 3, 4, 5]


def test_a_row_that_is_not_in_the_cursor_yet_is_not_sent_twice(crashed):
    cursor = crashed / "wandb" / "cursor.json"
    cursor.write_text(json.dumps(json.loads(cursor.read_text()) | {"step": 3}))
    assert resume(crashed) == [[1, 2, 3, 4, 5], [6]]


@pytest.mark.parametrize("damage", ["[1]", '{"step": 3, "file": 7}'])
def test_offline_files_replace_a_damaged_cursor(crashed, damage):
    (crashed / "wandb" / "cursor.json").write_text(damage)
    assert resume(crashed) == [[1, 2, 3, 4, 5], [6]]


def test_the_folder_may_be_removed_after_an_upload(crashed):
    (folder,) = folders(crashed)
    folder.rename(crashed / "uploaded")
    session = open_dashboard(crashed)
    assert session.sent == 5
    session.finish("finished")


def test_a_file_of_many_blocks_is_read(workdir):
    session = open_dashboard(workdir)
    names = [f"train/{number:040d}" for number in range(60)]
    session.send([{"step": step} | dict.fromkeys(names, 0.5) for step in range(60)])
    session.finish("finished")
    (file,) = folders(workdir)[0].glob("*.wandb")
    assert file.stat().st_size > 4 * dashboard.BLOCK
    assert list(dashboard.stored_steps(file)) == list(range(60)) == [row["step"] for row in history(file)]


def test_an_offline_run_opens_in_the_terminal_and_closes_again(crashed):
    """`wandb beta leet` in a new terminal shows the run, and q ends it."""
    terminal, inner = pty.openpty()
    command, environment = [*WANDB, "beta", "leet", str(folders(crashed)[0])], os.environ | {"TERM": "xterm-256color"}
    leet = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True)
    os.close(inner)
    termios.tcsetwinsize(terminal, (40, 140))
    shown, asked, end = b"", False, time.monotonic() + 60
    with contextlib.suppress(OSError):  # if the program of the terminal has ended
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536)
            elif b"train/loss" in shown and not asked:
                asked = bool(os.write(terminal, b"q"))
        leet.kill()
    os.close(terminal)
    assert leet.wait() == 0 and asked, shown[-2000:]
