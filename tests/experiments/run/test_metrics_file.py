"""metrics.jsonl survives kills, cuts and full disks."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errors import UserError
from experiments.run.metrics_file import MetricsFile

ROOT = Path(__file__).parents[3]


def test_rows_are_read_back_with_null_for_values_that_are_not_finite(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    values = {
        "train/loss": np.float32(0.5), "val/mIoU": float("nan"), "rates": [1, float("inf"), np.float64(2.5)],
        "IoU": np.array([0.25, np.nan]), "count": np.int64(3), "pictures": ["a.png"],
    }  # fmt: skip
    metrics.append(np.int64(7), values)
    expected = {
        "step": 7, "train/loss": 0.5, "val/mIoU": None, "rates": [1, None, 2.5], "IoU": [0.25, None], "count": 3,
        "pictures": ["a.png"],
    }  # fmt: skip
    assert list(metrics.rows()) == [expected]


ROWS = st.dictionaries(
    st.integers(0, 5), st.dictionaries(st.text(min_size=1), st.floats() | st.text(), max_size=3), max_size=6
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, step=st.integers(-1, 6), torn=st.integers(0, 30))
def test_a_cut_keeps_the_first_steps_byte_for_byte(tmp_path, rows, step, torn):
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    metrics = MetricsFile(path)
    for at, values in sorted(rows.items()):
        metrics.append(at, {name: value for name, value in values.items() if name != "step"})
    lines = path.read_bytes().splitlines(keepends=True)
    with open(path, "ab") as file:
        file.write(b'{"step": 0, "train/loss": 0.25}'[:torn])  # killed in the middle of a line
    metrics.cut(step)
    kept = [line for line, at in zip(lines, sorted(rows), strict=True) if at <= step]
    assert path.read_bytes() == b"".join(kept)
    metrics.append(step + 1, {"after": 1})
    assert list(metrics.rows())[-1] == {"step": step + 1, "after": 1}
    metrics.close()


def test_a_cut_does_not_disturb_a_reader(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(4):
        metrics.append(step, {"x": step})
    with open(metrics.path, "rb") as reader:
        first = reader.readline()
        metrics.cut(1)
        assert len([first, *reader]) == 4
    assert [row["step"] for row in metrics.rows()] == [0, 1]


NOT_ROWS = [b"\0\0\0", b"[1]", b'{"loss": 1}', b'{"step": "1"}', b'{"step": true}', b'{"step": -1}', b"\xff", b""]


@pytest.mark.parametrize("damage", [text + b"\n" for text in NOT_ROWS])
def test_damage_in_the_middle_names_the_line(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + damage + b'{"step": 1}\n')
    before = path.read_bytes()
    metrics = MetricsFile(path)
    for use in (lambda: metrics.cut(1), lambda: list(metrics.rows())):
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
            use()
    assert path.read_bytes() == before


def write(path, count):
    metrics = MetricsFile(path)
    for step in range(1, count + 1):
        metrics.append(step, {"x": step})
    return metrics


def test_rows_after_those_of_a_checkpoint_are_not_checked(tmp_path):
    path = tmp_path / "metrics.jsonl"
    mark = write(path, 3).mark
    kept = path.read_bytes()
    for after in (b"", b"\xff\x00\n", b'{"step": 2}\n', b"[" * 50_000 + b"\n", b'{"step": 4, "x"'):
        path.write_bytes(kept + after)
        metrics = MetricsFile(path)
        metrics.cut(3, mark)
        assert path.read_bytes() == kept and metrics.mark == mark
    older = kept + b"\xff\n"  # for a run whose checkpoints store no mark
    path.write_bytes(older)
    metrics = MetricsFile(path)
    metrics.cut(3)
    assert path.read_bytes() == kept


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda rows: [], r"has 0 of the 4 rows that it had when step 4 was saved"),
        (lambda rows: rows[:2], r"has 2 of the 4 rows"),
        (lambda rows: [*rows[:1], *rows[2:]], r"has 3 of the 4 rows"),
        (lambda rows: [*rows[:3], rows[3].replace(b"4", b"5")], r"has other rows"),
        (lambda rows: [rows[0], b"\xff\n", *rows[2:]], r"has other rows"),
        (lambda rows: rows[::-1], r"has other rows"),
    ],
)
def test_lost_rows_of_a_checkpoint_are_an_error_or_a_warning(tmp_path, capsys, damage, words):
    path = tmp_path / "metrics.jsonl"
    mark = write(path, 4).mark
    rows = [line + b"\n" for line in path.read_bytes().splitlines()]
    damaged = b"".join(damage(rows))
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=words + r".*--accept_lost_rows$"):
        MetricsFile(path).cut(4, mark)
    assert path.read_bytes() == damaged
    metrics = MetricsFile(path)
    metrics.cut(4, mark, accept_lost=True)
    assert (tmp_path / "metrics.jsonl.lost-1").read_bytes() == damaged
    assert "continues without them" in capsys.readouterr().err
    steps = [row["step"] for row in metrics.rows()]
    assert steps == sorted(set(steps)) and all(step <= 4 for step in steps)
    again = metrics.mark
    metrics.append(5, {"x": 5})
    MetricsFile(path).cut(4, again)  # the next checkpoint covers the remaining rows
    assert [row["step"] for row in MetricsFile(path).rows()] == steps


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_path_that_is_not_a_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is (a folder|a pipe).*and not a file"):
        MetricsFile(tmp_path / "metrics.jsonl")


def test_a_missing_file_is_reported_in_one_line(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.path.unlink()
    with pytest.raises(UserError, match="metrics.jsonl does not exist"):
        list(metrics.rows())


def test_kill_9_loses_no_line_that_was_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    script = f"""
        from pathlib import Path
        from experiments.run.metrics_file import MetricsFile
        metrics = MetricsFile(Path({str(path)!r}))
        step = 0
        while True:
            metrics.append(step, {{"filler": "x" * 1000}})
            print(step, flush=True)
            step += 1
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE)
    for _ in range(50):
        process.stdout.readline()
    process.kill()
    said = 50 + len(process.stdout.read().splitlines())
    process.wait()
    metrics = MetricsFile(path)
    metrics.cut(10**9)
    assert [row["step"] for row in metrics.rows()][:said] == list(range(said))


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_partial_row(tmp_path, full_disk):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append(1, {"x": 1})
    before = metrics.path.read_bytes()
    full_disk(len(before) + 5)
    with pytest.raises(UserError, match="step 2 cannot be written .* make room"):
        metrics.append(2, {"x": 2})
    assert metrics.path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": true}', b'{"step": -1}', b'{"step": 2.0}', b'{"step": "2"}', b'{"step": null}', b"{}", b"[]", b"2", b"",
        b'{"step": 2, "train/loss": NaN}', b'{"step": 2, "train/loss": 1e400}', b'{"step": 2, "train/loss": -Infinity}',
        b'{"step": 2, "train/loss": true}', b'{"step": 2, "train/loss": {"a": 1}}', b'{"step": 2, "rates": [1, [NaN]]}',
        b'{"step": 2, "name": "\xff\xfe"}', b'{"step": 2' + b"0" * 30 + b"}", b'{"step": 2, "a": ' + b"[" * 5000 + b"}",
        b'{"step": 1}', b'{"step": 0}',
    ],
)  # fmt: skip
def test_a_line_that_append_could_not_have_written_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "train/loss": 0.5}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2 is damaged: .*; repair or delete the line"):
        list(MetricsFile(path).rows())
    assert path.read_bytes().endswith(line + b"\n")
