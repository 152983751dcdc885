"""The plain lines and the live line that a run prints while it trains."""

import re

import pytest

from experiments.run import progress
from experiments.run.progress import Clock, Progress
from tests.test_terminal import run, see

LOOP = """
import time
from experiments.run.progress import Progress
best = [None]
progress = Progress(2, 6, "val/mIoU", lambda: best[0])
with progress.during("compiling", plain=True):
    time.sleep(0.5)
progress.say("compiled")
progress.restart()
for step in range(3, 7):
    progress.step()
    progress.report(step, 1 / step, 480.4, 0.034)
    best[0] = 0.5
    with progress.during("evaluating"):
        time.sleep(0.3)
    progress.say(f"step {step}  val: mIoU [red]0.5")
    time.sleep(0.3)
progress.close()
print("finished")
"""


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time in seconds, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_plain_lines_hold_all_that_is_measured(clock, capsys):
    best = [None]
    shown = Progress(2, 6, "val/mIoU", lambda: best[0])
    with shown.during("compiling", plain=True):
        clock[0] = 100
    shown.restart()
    shown.step()
    clock[0] += 20
    shown.report(3, 0.54321, 12.34, 0.034)
    with shown.during("evaluating"):
        best[0] = 0.61234
    shown.report(4, 0.5, 480.4, 1.0)
    shown.say("a\x1b[2Jb")
    shown.close()
    assert capsys.readouterr().out.splitlines() == [
        "compiling",
        "step 3/6  loss 0.5432  12.3 images/s  input-bound 3 %  1:00 left",
        "step 4/6  loss 0.5000  best val/mIoU 0.6123  480 images/s  input-bound 100 %  0:20 left",
        "a?[2Jb",
    ]


def test_a_terminal_shows_the_same_in_one_line_and_keeps_the_scores():
    printed, code = run(LOOP, 100)
    assert code == 0
    assert see(printed) == ["compiled", *(f"step {step}  val: mIoU [red]0.5" for step in range(3, 7)), "finished", ""]
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed)
    assert "2/6  ━━━━━━━━━━────────────────────  compiling 0:00" in plain and "evaluating 0:00" in plain
    assert re.search(r"4/6  ━+─+  \d:\d\d left  loss 0\.2500  best 0\.5000  480 images/s  input-bound 3 %", plain)


def test_a_dumb_terminal_and_a_pipe_have_plain_lines():
    printed, _ = run(LOOP, TERM="dumb")
    assert "\x1b" not in printed and "step 4/6  loss 0.2500  best val/mIoU 0.5000  480 images/s" in printed


def test_a_window_counts_what_lies_between_its_ends(clock):
    counted = Clock()
    clock[0] = 50  # the compilation
    counted.restart()
    with counted.waiting():
        clock[0] += 1
    counted.count(16)
    clock[0] += 3
    assert counted.read() == {"images_per_second": 4, "input_wait": 0.25}
    counted.count(8)
    clock[0] += 4
    counted.read()
    assert counted.total() == {"images_per_second": 3, "input_wait": 0.125}
