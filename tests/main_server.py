"""Run main.py in forks of a process that has already imported its modules. The imports take three seconds.

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
import warnings

ROOT = pathlib.Path(__file__).parents[1]
MODULES = ("experiments.train", "experiments.evaluate", "experiments.predict", "experiments.datacheck")


@functools.cache
def start_server() -> subprocess.Popen:
    """Start the server once. It exits when this process ends, which closes its input."""
    command = [sys.executable, "-m", "tests.main_server"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_main(*arguments: object) -> subprocess.CompletedProcess:
    """Run main.py with these arguments and the current environment. Returns its exit code and what it printed.

    jax reads some of its variables at its import, when the server starts.
    """
    server, words = start_server(), list(map(str, arguments))
    try:
        with tempfile.TemporaryDirectory() as folder:
            places = [f"{folder}/stdout", f"{folder}/stderr"]
            print(json.dumps([words, dict(os.environ), places]), file=server.stdin, flush=True)
            code = server.stdout.readline()
            assert code, "the server of main.py has ended; its error is above"
            return subprocess.CompletedProcess(words, int(code), *(pathlib.Path(place).read_text() for place in places))
    except BaseException:
        server.kill()  # its answer could be read as that of the next run
        start_server.cache_clear()
        raise


def serve() -> None:
    """Fork a child for each line of the input, and print its exit code.

    A line holds the arguments, the environment and the files of the output.
    """
    for module in MODULES:
        importlib.import_module(module)
    from jax._src import xla_bridge

    assert not xla_bridge.backends_are_initialized(), (
        "a module computes when it is imported; its threads do not survive a fork"
    )
    warnings.filterwarnings(
        "ignore", "This process .* is multi-threaded", DeprecationWarning
    )  # the threads are numpy's
    for line in sys.stdin:
        arguments, environment, places = json.loads(line)
        child = os.fork()
        if child == 0:
            os.environ.clear()
            os.environ.update(environment)
            for number, place in enumerate([os.devnull, *places]):
                os.dup2(os.open(place, os.O_RDWR | os.O_CREAT), number)
            sys.argv = ["main.py", *arguments]
            runpy.run_path("main.py", run_name="__main__")
            sys.exit("main.py has returned without an exit code")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
