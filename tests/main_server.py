"""Run main.py in forks of one process that has its imports, which take three seconds of every start.

Tests of the start itself, of signals and of several processes start main.py on their own.
"""

import functools
import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
MODULES = ("experiments.train", "experiments.evaluate", "experiments.predict", "experiments.datacheck")


@functools.cache
def start_server() -> subprocess.Popen:
    """Start the process once. It ends with this one, as its input does."""
    command = [sys.executable, "-m", "tests.main_server"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_main(*arguments: object) -> subprocess.CompletedProcess:
    """Run main.py with these arguments, and return its exit code and what it printed."""
    server, words = start_server(), list(map(str, arguments))
    with tempfile.TemporaryDirectory() as folder:
        places = [f"{folder}/stdout", f"{folder}/stderr"]
        print(json.dumps([words, places]), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(pathlib.Path(place).read_text() for place in places))


def serve() -> None:
    """Read arguments and places of output from the input, line by line, and print the exit codes."""
    for module in MODULES:
        importlib.import_module(module)
    for line in sys.stdin:
        arguments, places = json.loads(line)
        child = os.fork()
        if child == 0:
            for number, place in enumerate([os.devnull, *places]):
                os.dup2(os.open(place, os.O_RDWR | os.O_CREAT), number)
            sys.argv = ["main.py", *arguments]
            runpy.run_path("main.py", run_name="__main__")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
