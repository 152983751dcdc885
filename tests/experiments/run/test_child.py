"""A program that ends with its launcher, with and without the help of the kernel."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from experiments.run import child
from tests.experiments.sweep.test_local import alive, wait_for

PROGRAM = """
import os, sys, time
print(os.getpid(), *sys.argv[1:], __name__, os.path.basename(sys.path[0]), flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(7)
"""
# A launcher that starts the program and then sleeps.
LAUNCHER = """
import os, subprocess, sys, time
read, write = os.pipe()
subprocess.Popen([sys.executable, "-P", "-c", sys.argv[1], str(os.getpid()), str(read), *sys.argv[2:]], pass_fds=(read,))
time.sleep(60)
"""
HERE = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("child", {child.__file__!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
"""
WAYS = {
    "kernel": HERE + "child.main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])",
    "pipe": HERE + "child.run_beside(int(sys.argv[2]), sys.argv[3], sys.argv[4:])",
}


@pytest.fixture
def program(tmp_path) -> pathlib.Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


@pytest.mark.parametrize("way", WAYS)
def test_the_program_dies_with_its_launcher(program, way):
    if way == "kernel" and sys.platform != "linux":
        pytest.skip("needs the kernel of Linux")
    command = [sys.executable, "-c", LAUNCHER, WAYS[way], str(program), "60"]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = int(launcher.stdout.readline().split()[0])
    assert alive(pid)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    wait_for(lambda: not alive(pid), seconds=5)
    launcher.stdout.close()


@pytest.mark.parametrize("way", WAYS)
def test_the_program_runs_as_if_started_directly(program, way):
    read, write = os.pipe()
    command = [sys.executable, "-P", "-c", WAYS[way], str(os.getpid()), str(read), str(program), "0", "a b"]
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=(read,))
    os.close(read)
    os.close(write)
    assert done.returncode == 7
    assert done.stdout.split()[1:] == ["0", "a", "b", "__main__", program.parent.name]


def test_nothing_starts_if_the_launcher_has_already_ended(program):
    if sys.platform != "linux":
        pytest.skip("needs the kernel of Linux")
    done = subprocess.run(
        [sys.executable, "-P", child.__file__, "1", "0", str(program), "0"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "has ended" in done.stderr and done.stdout == ""
