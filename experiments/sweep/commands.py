"""`--executor=print`: the commands of the runs that are not done, one a line, for any scheduler."""

import os
import pathlib
import shlex
import sys

from experiments.sweep import state
from experiments.sweep.launch import Launch, Phase, Progress


def launch(sweep: Launch) -> int:
    """Print a sweep's commands, each after the one that it starts from. Starts nothing. Return 0.

    A run that starts from another one asks first whether that one is done, for a scheduler may start both at a time.
    """
    program = [shorten(sys.executable), shorten(sweep.program)]
    for job in sweep.jobs:
        if Progress(job).phase is Phase.DONE:
            print(f"# done: {job.workdir.name}")
            continue
        command = shlex.join([*program, *job.arguments])
        if job.start is not None:
            print(
                f"# the next one starts from {job.start.workdir.name}; until that is done it exits with {state.UNFINISHED}"
            )
            command = f"{shlex.join([program[0], '-m', state.__name__, str(job.start.workdir)])} && {command}"
        print(command)
    return 0


def shorten(program: str | pathlib.Path) -> str:
    """Return a path below the current folder as it is seen from there."""
    place, here = pathlib.Path(program), pathlib.Path(os.getcwd())
    return str(place.relative_to(here)) if place.is_relative_to(here) else str(place)
