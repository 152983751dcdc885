"""Run a sweep or a search that a config file defines in its `sweep()` or `search()`.

    .venv/bin/python -m experiments.sweep --config=FILE.py --workdir=runs/lr --config.train.steps=2000
    .venv/bin/python -m experiments.sweep --config=FILE.py --workdir=runs/lr --search=optuna --trials=20

Start the same command again after a stop, a kill or a failure. It resumes unfinished runs and starts the missing ones.
"""

import os

from errors import begin_command

if __name__ == "__main__":
    begin_command(os.EX_TEMPFAIL)  # first of all: the imports take a while

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

EXECUTORS = {  # functions that take a Launch
    "local": "experiments.sweep.local:launch",
    "print": "experiments.sweep.commands:launch",
    "slurm": "experiments.sweep.slurm:launch",
    "wandb": "experiments.sweep.agents:launch",
}
SEARCHES = {"optuna": "experiments.sweep.search:launch"}  # functions that take a Search


def read_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str], dict[str, str]]:
    """Return the flags, the fields to set in every run, and the options for SLURM."""
    parser = Parser(prog="python -m experiments.sweep", description="Run a sweep or a search.", allow_abbrev=False)
    parser.add_argument(
        "--config", required=True, help="a file that defines sweep() or search(); add `:debug` for tiny runs"
    )
    parser.add_argument("--workdir", required=True, help="the sweep's folder; each run gets a directory in it")
    parser.add_argument("--executor", choices=list(EXECUTORS), default="local", help="where the runs are started")
    parser.add_argument(
        "--jobs", type=int, help="local, slurm: how many runs at a time (local: one for each GPU by default)"
    )
    parser.add_argument("--search", choices=list(SEARCHES), help="search the space of the file's search() instead")
    parser.add_argument("--trials", type=int, help="search: the total number of runs")
    parser.add_argument("--search_seed", type=int, help="search: the seed of the drawn values, 0 by default")
    parser.add_argument("--tfds_data_dir", help="the folder of prepared datasets, $TFDS_DATA_DIR by default")
    parsed, others = parser.parse_known_args(argv)
    found: dict[str, dict[str, str]] = {"config": {}, "slurm": {}}
    for argument in others:
        field = re.fullmatch(r"--(config|slurm)\.([\w.-]+)=(.*)", argument, flags=re.DOTALL)
        if field is None:
            raise UserError(
                f"{argument!r} is not a flag; write --config.NAME=VALUE for a field of all runs, --slurm.NAME=VALUE for an "
                "option of sbatch"
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
        raise UserError(f"--search={parsed.search} needs --trials, the total number of runs, 1 or more")
    if parsed.executor != "local":
        raise UserError(f"--search does not support --executor={parsed.executor}; use --executor=local")


def main(argv: Sequence[str]) -> int:
    """Run the sweep that the command line names. Return the exit code of the process."""
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
    """Return the function `MODULE:NAME`. Raise UserError if a package of requirements-sweep.txt is missing."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the package {error.name} is not installed; run .venv/bin/pip install -r requirements-sweep.txt"
        ) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
