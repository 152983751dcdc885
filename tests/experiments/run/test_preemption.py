import os
import pathlib
import signal
import subprocess
import sys

import pytest

from experiments.run.preemption import Preemption

ROOT = pathlib.Path(__file__).parents[3]
# A call into C that lets other threads run, as a compilation does, and comes back only after minutes.
BUSY = """
import hashlib
from experiments.run import preemption
preemption.GRACE = 0.3
with preemption.Preemption() as stop:
    stop.nothing_to_lose = {nothing}
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", {iterations})
    print("signal", stop.signal, flush=True)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_gives_the_exit_code(number, code):
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as stop:
        stop.nothing_to_lose = False
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        assert stop.exit_code == code
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_interrupt_does_not_wait():
    with pytest.raises(KeyboardInterrupt), Preemption() as stop:
        stop.nothing_to_lose = False
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def busy(nothing: bool, iterations: int) -> subprocess.Popen:
    program = BUSY.format(nothing=nothing, iterations=iterations)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    return process


def test_a_process_deaf_in_a_compilation_with_nothing_to_lose_is_ended():
    process = busy(nothing=True, iterations=2_000_000_000)  # a quarter of an hour
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "nothing to save" in output


def test_a_process_with_something_to_lose_is_waited_for():
    process = busy(nothing=False, iterations=4_000_000)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"signal {signal.SIGTERM.value}" in output
