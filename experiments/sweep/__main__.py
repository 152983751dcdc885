"""Carries out a sweep: the runs that the `sweep()` of a config file defines, or a search of the space of its `search()`.

    .venv/bin/python -m experiments.sweep --config=FILE.py --workdir=runs/lr --config.train.steps=2000
    .venv/bin/python -m experiments.sweep --config=FILE.py --workdir=runs/lr --search=optuna --trials=20

Start the same command again after a stop, a kill or a failure: it does what is missing, and resumes what is half done.
"""

import os

from errors import begin_command

if __name__ == "__main__":
    begin_command(os.EX_TEMPFAIL)  # first of all, for the imports take their time

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from errors import UserError
from experiments.arguments import Parser
from experiments.run.places import locate
from experiments.sweep.launch import Launch, Search
from experiments.sweep.plan import make_plan

EXECUTORS = {  # each a function of the Launch
    "local": "experiments.sweep.local:launch",
    "print": "experiments.sweep.commands:launch",
    "slurm": "experiments.sweep.slurm:launch",
    "wandb": "experiments.sweep.agents:launch",
}
SEARCHES = {"optuna": "experiments.sweep.search:launch"}  # each a function of the Search


def read_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str], dict[str, str]]:
    """Return the flags, the fields that are to be set for every run, and the options of SLURM."""
    parser = Parser(prog="python -m experiments.sweep", description="Carries out a sweep.", allow_abbrev=False)
    parser.add_argument("--config", required=True, help="a file with a sweep(), `:debug` for tiny runs")
    parser.add_argument("--workdir", required=True, help="the sweep's folder: a directory for each run")
    parser.add_argument("--executor", choices=list(EXECUTORS), default="local", help="what carries the runs out")
    parser.add_argument(
        "--jobs", type=int, help="local, slurm: how many runs at a time; local: one for each GPU if not given"
    )
    parser.add_argument("--search", choices=list(SEARCHES), help="search the file's search() instead")
    parser.add_argument("--trials", type=int, help="search: how many runs there are to be in all")
    parser.add_argument("--search_seed", type=int, help="search: another one than 0 draws other values")
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
    _check_search(parsed)
    return parsed, found["config"], found["slurm"]


def _check_search(parsed: argparse.Namespace) -> None:
    if parsed.search is None:
        for name in ("trials", "search_seed"):
            if getattr(parsed, name) is not None:
                raise UserError(f"--{name} needs --search=optuna")
        return
    if parsed.trials is None or parsed.trials < 1:
        raise UserError(f"--search={parsed.search} needs --trials: how many runs there are to be in all, 1 or more")
    if parsed.executor != "local":
        raise UserError(f"--search goes with --executor=local alone, not with {parsed.executor}")


def main(argv: Sequence[str]) -> int:
    """Carry out the sweep that the command line names. Return the process's exit code."""
    try:
        parsed, overrides, options = read_flags(argv)
        workdir = locate(parsed.workdir)
        if parsed.search:
            seed, data_dir = parsed.search_seed or 0, parsed.tfds_data_dir
            search = Search(parsed.config, overrides, workdir, parsed.trials, seed, parsed.jobs, data_dir)
            return _load(SEARCHES[parsed.search])(search)
        jobs = make_plan(parsed.config, overrides, workdir, parsed.tfds_data_dir)
        return _load(EXECUTORS[parsed.executor])(Launch(jobs, workdir, parsed.jobs, options=options))
    except UserError as error:
        sys.exit(f"error: {error}")


def _load(name: str) -> Callable[[Any], int]:
    """Return the function MODULE:NAME. Raise UserError where a package of requirements-sweep.txt is missing."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the package {error.name} is not installed; .venv/bin/pip install -r requirements-sweep.txt"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
