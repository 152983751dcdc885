import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from experiments.run import preemption
from experiments.run.preemption import Preemption

ROOT = pathlib.Path(__file__).parents[3]
# A C call that lets other threads run, like a compilation, and returns only after minutes.
BUSY = """
import hashlib
from experiments.run import preemption
preemption.GRACE = 0.3
preemption.STARTED = preemption.time.monotonic()
with preemption.Preemption({minutes}) as stop:
    stop.nothing_to_lose = {nothing}
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", {iterations})
    print("signal", stop.signal, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_requests_a_stop_and_sets_the_exit_code(number):
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as stop:
        stop.nothing_to_lose = False
        assert stop.signal is None and not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.signal == number and stop.requested() and stop.cause == "stopped"
        assert stop.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_time_limit_counts_from_the_start_and_leaves_time_to_save(monkeypatch):
    monkeypatch.setattr(preemption, "STARTED", time.monotonic() - 60.0)
    assert not Preemption(0.0).requested(reserve=1e9)
    stop = Preemption(1.5)
    assert not stop.requested(reserve=20.0) and stop.requested(reserve=40.0)
    assert stop.cause == "stopped by train.max_minutes=1.5" and stop.exit_code == 75
    monkeypatch.setattr(preemption, "STARTED", time.monotonic() - 90.1)
    assert stop.requested()


def busy(nothing: bool, iterations: int, minutes: float = 0.0) -> subprocess.Popen:
    program = BUSY.format(nothing=nothing, iterations=iterations, minutes=minutes)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("nothing", [True, False])
def test_a_second_interrupt_does_not_wait(nothing):
    process = busy(nothing=nothing, iterations=2_000_000_000)
    began = time.monotonic()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    process.communicate(timeout=60)
    assert process.returncode == 75 and time.monotonic() - began < 4, "less than the grace period of one stop"


def test_a_first_interrupt_after_the_time_limit_does_not_end_the_process():
    """The loop is saving then, and may finish."""
    program = """
import time
from experiments.run.preemption import Preemption
stop = Preemption(1e-6)
stop.nothing_to_lose = False
with stop:
    print("ready", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.001)
"""
    for _ in range(3):  # the handler and the thread receive a signal in either order
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 75
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_during_a_compilation_ends_a_process_with_nothing_to_lose(number):
    process = busy(nothing=True, iterations=2_000_000_000)  # 15 minutes
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75
    assert output == "stopped before the first step, with nothing to save; start the same command again\n"


def test_the_time_limit_ends_a_compilation():
    output, _ = (process := busy(nothing=True, iterations=2_000_000_000, minutes=0.01)).communicate(timeout=120)
    assert process.returncode == 75
    assert output.startswith("stopped by train.max_minutes=0.01 before the first step") and "more minutes" in output


def test_a_process_with_something_to_lose_is_waited_for():
    process = busy(nothing=False, iterations=4_000_000, minutes=0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"signal {signal.SIGTERM.value}" in output


ENDING = """
import os, signal
from experiments.run import preemption

def stop(number):
    os.kill(os.getpid(), number)
    preemption.time.sleep(5)

{body}
"""


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("preemption.exit_at_once()\nstop(signal.SIGTERM)", 75),
        ("preemption.exit_at_once()\nwith preemption.Preemption(): pass\nstop(signal.SIGINT)", 75),
        ("preemption.exit_at_once()\nwith preemption.Preemption() as it: it.finished = True\nstop(signal.SIGUSR1)", 0),
        ("with preemption.Preemption():\n    os.kill(os.getpid(), signal.SIGTERM)\n    1 / 0", 75),
        ("with preemption.Preemption() as it:\n    it.nothing_to_lose = False; os.kill(os.getpid(), 15); 1 / 0", 1),
        ("with preemption.Preemption(): 1 / 0", 1),
    ],
)
def test_before_and_after_the_loop_a_stop_ends_the_process_at_once(body, code):
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", ENDING.format(body=body)], cwd=ROOT, capture_output=True)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_stop_while_the_interpreter_ends_changes_nothing(number):
    """Python has removed its handlers before it destroys the modules."""
    program = f"""
import os
from experiments.run import preemption

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, {int(number)})

last = Last()
preemption.exit_at_once(0)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
