"""The executor `--executor=print`, which prints the command of each unfinished run, for any scheduler."""

import os
import pathlib
import shlex
import sys

from experiments.sweep import state
from experiments.sweep.launch import Launch, Phase, Progress


def launch(sweep: Launch) -> int:
    """Print the commands of a sweep without starting them. Return 0.

    A run that starts from another one comes after it. Its command first checks whether the other one is done, because a
    scheduler may start both at the same time.
    """
    program = [shorten(sys.executable), shorten(sweep.program)]
    for job in sweep.jobs:
        if Progress(job).phase is Phase.DONE:
            print(f"# done: {job.workdir.name}")
            continue
        command = shlex.join([*program, *job.arguments])
        if job.start is not None:
            print(
                f"# the next run starts from {job.start.workdir.name}; it exits with {state.UNFINISHED} until that is done"
            )
            command = f"{shlex.join([program[0], '-m', state.__name__, str(job.start.workdir)])} && {command}"
        print(command)
    return 0


def shorten(program: str | pathlib.Path) -> str:
    """Return a path relative to the current folder, or unchanged if it is not below it."""
    place, here = pathlib.Path(program), pathlib.Path(os.getcwd())
    return str(place.relative_to(here)) if place.is_relative_to(here) else str(place)
