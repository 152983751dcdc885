"""The state of a run as its directory shows it."""

import fcntl
import json
import os

import pytest

from experiments.sweep import state
from experiments.sweep.state import State


@pytest.fixture
def run(tmp_path):
    def write(*rows: dict, last=(), best=(), torn: str = "") -> State:
        (tmp_path / "metrics.tmp").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + torn)
        os.replace(tmp_path / "metrics.tmp", tmp_path / "metrics.jsonl")
        for kind, names in (("last", last), ("best", best)):
            for name in names:
                (tmp_path / "checkpoints" / kind / str(name)).mkdir(parents=True, exist_ok=True)
        return State(tmp_path, 4, "val/mIoU")

    return write


TRAINED, SCORED = {"step": 3, "train/loss": 1.0}, {"step": 4, "train/loss": 1.0, "val/mIoU": 0.5}


def test_done_needs_the_last_row_its_scores_and_its_checkpoint(run):
    assert run(TRAINED, SCORED, last=[2, 4]).done


@pytest.mark.parametrize(
    ("rows", "last", "torn"),
    [
        ([TRAINED], [4], ""),
        ([TRAINED, SCORED], [2], ""),
        ([TRAINED, SCORED], ["4.orbax-checkpoint-tmp"], ""),
        ([TRAINED, {"step": 4, "train/loss": 1.0}], [4], ""),
        ([TRAINED], [4], json.dumps(SCORED)),
        ([], [], ""),
    ],
    ids=["step", "checkpoint", "half a checkpoint", "scores", "half a row", "nothing"],
)
def test_a_run_without_one_of_them_is_not_done(run, rows, last, torn):
    assert not run(*rows, last=last, torn=torn).done


def test_a_run_without_a_directory_has_not_begun(tmp_path):
    empty = State(tmp_path / "none", 4, "val/mIoU")
    assert (empty.step, empty.saved, empty.done, empty.last, empty.best, empty.seconds) == (0, -1, False, None, None, 0)


def test_new_rows_are_read_and_all_rows_after_a_cut(run, tmp_path):
    found = run({"step": 1, "val/mIoU": 0.9}, {"step": 2, "val/mIoU": 0.7}, torn='{"step": 3, "val', best=[1], last=[2])
    assert (found.step, found.saved, found.last, found.best) == (2, 2, 0.7, (1, 0.9))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('/mIoU": 0.8}\n')
    found.refresh()
    assert (found.step, found.last) == (3, 0.8)
    run({"step": 1, "val/mIoU": 0.9})
    found.refresh()
    assert (found.step, found.last, found.best) == (1, 0.9, (1, 0.9))


def test_the_training_time_covers_all_sessions(run, tmp_path):
    sessions = [
        {"started": "2025-01-01T00:00:00+00:00", "updated": "2025-01-01T00:01:00+00:00"},
        {"started": "2025-01-02T00:00:00+00:00", "updated": "2025-01-02T00:00:30+00:00"},
        {"started": "2025-01-03T00:00:00+00:00"},
    ]
    (tmp_path / "evidence.json").write_text(json.dumps({"sessions": sessions}))
    assert run().seconds == 90


def test_pipes_in_a_directory_do_not_block(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert not state.in_use(tmp_path)
    assert State(tmp_path, 10, "val/mIoU").step == 0


def test_a_run_in_use_is_detected(tmp_path):
    assert not state.in_use(tmp_path)
    with open(tmp_path / ".lock", "a") as lock:
        assert not state.in_use(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state.in_use(tmp_path)
    assert not state.in_use(tmp_path)


def test_the_command_exits_with_0_only_if_the_run_is_done(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["state", str(tmp_path)])
    assert state.main() == 75 and "no run has started" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"train": {"steps": 4, "best": "val/mIoU"}}')
    run(TRAINED)
    assert state.main() == 75 and "step 3 of 4, not done" in capsys.readouterr().out
    run(TRAINED, SCORED, last=[4])
    assert state.main() == 0
