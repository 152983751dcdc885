"""Carries out a sweep: the runs that the `sweep()` of a config file defines.

    .venv/bin/python -m experiments.sweep --config=FILE.py --workdir=runs/lr --config.train.steps=2000

Start the same command again after a stop, a kill or a failure: it does what is missing, and resumes what is half done.
"""

import argparse
import importlib
import pathlib
import re
import sys
import types
from collections.abc import Sequence
from typing import NoReturn

from errors import UserError
from experiments.sweep.launch import Launch
from experiments.sweep.plan import make_plan

EXECUTORS = {  # each a function of the Launch
    "local": "experiments.sweep.local:launch",
    "print": "experiments.sweep.commands:launch",
    "slurm": "experiments.sweep.slurm:launch",
    "wandb": "experiments.sweep.agents:launch",
}


class Parser(argparse.ArgumentParser):
    """One whose mistakes are one line, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {message}")


def read_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str], dict[str, str]]:
    """Returns the flags, the fields that are to be set for every run, and the options of SLURM."""
    parser = Parser(prog="python -m experiments.sweep", description="Carries out a sweep.", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a file with a sweep(), `:debug` for tiny runs")
    parser.add_argument("--workdir", required=True, help="the sweep's folder: a directory for each run")
    parser.add_argument("--executor", choices=list(EXECUTORS), default="local", help="what carries the runs out")
    parser.add_argument(
        "--jobs", type=int, help="local, slurm: how many runs at a time; local: one for each GPU if not given"
    )
    parser.add_argument("--tfds_data_dir", help="where prepared datasets are; $TFDS_DATA_DIR if not given")
    parsed, others = parser.parse_known_args(argv)
    found: dict[str, dict[str, str]] = {"config": {}, "slurm": {}}
    for argument in others:
        field = re.fullmatch(r"--(config|slurm)\.([\w.-]+)=(.*)", argument, flags=re.DOTALL)
        if field is None:
            raise UserError(
                f"{argument!r} is not a flag; a field of all runs is written --config.NAME=VALUE, an option of sbatch "
                "--slurm.NAME=VALUE"
            )
        found[field[1]][field[2]] = field[3]
    if found["slurm"] and parsed.executor != "slurm":
        raise UserError(f"--slurm.{next(iter(found['slurm']))} needs --executor=slurm")
    if parsed.jobs is not None and parsed.jobs < 1:
        raise UserError(f"--jobs={parsed.jobs} must be 1 or more")
    return parsed, found["config"], found["slurm"]


def main(argv: Sequence[str]) -> int:
    """Carries out the sweep that the command line names. Returns the process's exit code."""
    try:
        parsed, overrides, options = read_flags(argv)
        workdir = pathlib.Path(parsed.workdir).expanduser().absolute()
        jobs = make_plan(parsed.config, overrides, workdir, parsed.tfds_data_dir)
        module, function = EXECUTORS[parsed.executor].split(":")
        launch = getattr(_load(module), function)
        return launch(Launch(jobs, workdir, parsed.jobs, options=options))
    except UserError as error:
        sys.exit(f"error: {error}")


def _load(module: str) -> types.ModuleType:
    """Imports an executor. Raises UserError where a package of requirements-sweep.txt is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--executor: the package {error.name} is not installed; pip install -r requirements-sweep.txt"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
