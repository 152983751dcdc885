"""Ctrl-C ends a command without a traceback, at every moment."""

import ast
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
INTERNAL = {
    "experiments/run/child.py",
    "experiments/run/follower.py",
    "experiments/run/resolution.py",
}  # ignore Ctrl-C
COMMANDS = [
    path
    for part in ("experiments", "input_pipeline", "benchmarks")
    for path in sorted((ROOT / part).rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text("utf-8") and str(path.relative_to(ROOT)) not in INTERNAL
]
PROGRAM = """
from errors import begin_command

begin_command({code})

import contextlib, sys, time

@contextlib.contextmanager
def closing():
    try:
        yield
    finally:
        print("closed", flush=True)
        {after}

with closing():
    print("ready", flush=True)
    {work}
"""


def interrupt(times: int = 1, **parts: str) -> subprocess.CompletedProcess:
    program = PROGRAM.format(**{"code": "", "after": "", "work": "time.sleep(60)"} | parts)
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background tests ignore it
    )
    assert running.stdout.readline() == "ready\n"
    for _ in range(times):
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
    out, err = running.communicate(timeout=20)
    return subprocess.CompletedProcess([], running.returncode, out, err)


def test_ctrl_c_closes_what_is_open_and_exits_like_the_signal():
    done = interrupt()
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "closed\n", "stopped\n")
    done = interrupt(code="75")
    assert (done.returncode, done.stderr) == (75, "stopped: start the same command again to go on\n")


def test_a_second_ctrl_c_does_not_wait():
    done = interrupt(times=2, after="time.sleep(60)")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_an_interrupt_that_a_library_converts_is_not_a_failure():
    work = "exec('try: time.sleep(60)\\nexcept BaseException: raise ImportError(1)')"
    done = interrupt(work=work)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "stopped\n")


def test_other_errors_keep_their_traceback():
    program = PROGRAM.format(code="", after="", work="1 / 0")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_begins_before_other_imports(path):
    imported = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.If) and "begin_command(" in ast.unparse(node):
            assert set(imported) <= {"os", "errors"}
            return
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module)
    raise AssertionError("it does not call begin_command")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_printing_works_in_every_locale(encoding):
    program = "import errors; errors.print_anything(); print('schön ☃ \\udcff'); errors.warn('schön ☃ \\udcff')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, env={"PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0 and done.stdout.endswith(b"n ? ?\n") and done.stderr.startswith(b"warning: sch")


def test_errors_of_users_and_of_the_system_are_one_line(tmp_path):
    works = {
        "open('n' * 300)": f"error: {'n' * 300}: File name too long; see that it can be read",
        "__import__('errors').warn('x'); raise __import__('errors').UserError('a is wrong\\nin two lines')": "a is wrong?in",
        "raise OSError('the library cannot be loaded')": "OSError: the library cannot be loaded",
    }
    for work, words in works.items():
        program = PROGRAM.format(code="", after="", work=work)
        for ignore in ("", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"):  # as in the background
            command = [sys.executable, "-c", ignore + program]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 1 and words in done.stderr
            assert ("Traceback" in done.stderr) == ("library" in work)
