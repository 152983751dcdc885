"""The live line on a pseudo-terminal, plain lines elsewhere, and texts that try to steer a terminal."""

import fcntl
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios

import pytest

import terminal
from terminal import Count, compose, format_time, print_rows

ROOT = pathlib.Path(__file__).parents[1]
NAME = "[red]a[/] :smile: \x1b[2J"
WORK = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may ignore it
from terminal import Count
with Count({NAME!r}, 10) as count:
    for number in range(10):
        count.add()
        if number == 4:
            print("a line of the work")
            print("warning: something", file=sys.stderr)
        time.sleep(0.05)
print("done")
"""


def run(program: str, columns: int = 80, stop_after: str = "", **environment: str) -> tuple[str, int]:
    """Run a program on a pseudo-terminal. Returns what it has printed, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=own | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    printed = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        printed += part
        if stop_after and stop_after.encode() in printed:
            process.send_signal(signal.SIGINT)
            stop_after = ""
        if not part:
            break
    os.close(ours)
    return printed.decode(), process.wait(60)


def see(printed: str) -> list[str]:
    """Return the lines that a terminal shows in the end, after erasures and movements of the cursor."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|\x1b\[[\d;]*m|\r|\n|[^\x1b\r\n]+", printed):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return lines


def test_lines_appear_above_the_live_line_which_leaves_nothing_behind():
    printed, code = run(WORK)
    assert code == 0 and see(printed) == ["a line of the work", "warning: something", "done", ""]
    assert re.search(r"[2-9]/10 images", printed) and "━" in printed and "0:00 left" in printed


def test_names_are_neither_markup_nor_escapes():
    printed, _ = run(WORK)
    assert "[red]a[/] :smile: ?[2J of " in printed and "\x1b[2J" not in printed


def test_the_cursor_is_never_hidden_and_a_stop_leaves_the_terminal_whole():
    printed, code = run(WORK.replace("0.05", "5"), stop_after="10 images")
    assert code == -signal.SIGINT and "\x1b[?25l" not in printed and "KeyboardInterrupt" in printed
    assert see(printed)[0].startswith("Traceback"), "the live line was taken away first"


@pytest.mark.parametrize("columns", [20, 40])
def test_a_narrow_terminal_has_one_line_within_its_width(columns):
    printed, _ = run(WORK.replace(repr(NAME), "'proposals'"), columns)
    drawn = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in re.split(r"\r\x1b\[2K|\r\n", printed)]
    assert max(map(len, drawn)) < columns and any(line.startswith("proposals of") for line in drawn)


def test_without_colours_there_are_none():
    printed, _ = run(WORK, NO_COLOR="1")
    assert "━" in printed and not re.search(r"\x1b\[[\d;]*3\dm", printed)


def test_an_encoding_without_the_letters_has_a_plain_bar():
    printed, code = run(WORK, PYTHONIOENCODING="ascii")
    assert code == 0 and "##" in printed


@pytest.mark.parametrize("name", ["dumb", ""])
def test_a_dumb_terminal_has_plain_lines(name):
    printed, _ = run(WORK, TERM=name)
    assert "\x1b" not in printed and printed.splitlines()[0].startswith("[red]a[/] :smile: ?[2J of 1/10 images  0:0")


def test_a_line_that_has_not_ended_is_not_erased():
    printed, _ = run(
        WORK.replace('print("a line of the work")', 'print("half", end=""); time.sleep(0.5); print(" a line")')
    )
    assert "half a line" in see(printed)


def test_two_live_lines_are_drawn_below_each_other():
    program = """
import time
from terminal import Count
with Count("outer", 10) as outer, Count("inner", 2) as inner:
    inner.add(2)
    print("inside")
    time.sleep(0.5)
"""
    printed, code = run(program)
    assert code == 0 and "".join(see(printed)) == "inside"
    assert re.search(r"outer of 0/10 images[^\n]*\r?\n[^\n]*inner of 2/2 images", printed)


def test_elsewhere_there_is_a_line_after_the_first_images_and_then_each_minute(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with Count("proposals", 40, 8) as count:
        for _ in range(4):
            now[0] += 32
            count.add(8)
    assert capsys.readouterr().out.splitlines() == [
        "proposals of 16/40 images  1:36 left",
        "proposals of 32/40 images  0:32 left",
    ]


def test_rich_is_imported_for_a_live_line_alone():
    done = subprocess.run(
        [sys.executable, "-c", WORK + "print([name for name in sys.modules if name.startswith('rich')])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_words_without_room_are_left_out_the_last_ones_first():
    parts = 0.5, ["120/240", "1:23 left", "loss 0.5432", "best 0.6123", "470 images/s", "input-bound 3 %"]
    lines = {width: compose(parts, width) for width in (10, 39, 79, 120)}
    texts = {width: "".join(text for text, _ in line) for width, line in lines.items()}
    assert texts[10] == "120/240" and texts[39] == "120/240  ━━━─── 1:23 left  loss 0.5432".replace("─ ", "─  ")
    assert texts[79] == "  ".join(parts[1]), "all of it fits 80 columns"
    assert texts[120].split("  ")[1] == "━" * 15 + "─" * 15
    assert compose((0, ["世界地図"]), 5) == [("世界 ", "")], "a letter of two cells"


def test_times_are_those_of_a_clock():
    assert [format_time(seconds) for seconds in (-1, 7.4, 67, 3723)] == ["0:00", "0:07", "1:07", "1:02:03"]


def test_rows_are_two_columns_one_line_each(capsys):
    print_rows([("data", "a " * 200), ("results", "[red]\x1b[2J")])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "data     " + ("a " * 200).rstrip() and second == "results  [red]?[2J"


def test_rows_on_a_terminal_are_wrapped_and_paths_stay_whole():
    path = "/a-long/path-" * 5
    printed, _ = run(
        f"from terminal import print_rows; print_rows([('results', 'some words and then {path} more')])", 40
    )
    assert see(printed) == ["results  some words and then", f"         {path}", "         more", ""]
