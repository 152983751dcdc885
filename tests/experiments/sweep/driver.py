"""Launches a sweep of fake runs: `python -m tests.experiments.sweep.driver FILE WORKDIR [JOBS]`. Loads no jax."""

import pathlib
import sys

from errors import UserError
from experiments.command_line import read_experiment
from experiments.run.config_file import flatten
from experiments.sweep import local
from experiments.sweep.launch import Launch
from experiments.sweep.plan import make_plan

FAKE = pathlib.Path(__file__).with_name("fake_main.py")


def resolve(request: dict) -> dict:
    """Resolves configs without their check."""
    runs = [{"fields": flatten(read_experiment(run["config"], run["fields"]))} for run in request["runs"]]
    return {"runs": runs, "stored": {}}


def main(file: str, workdir: str, jobs: str = "2") -> int:
    try:
        plan = make_plan(file, {}, pathlib.Path(workdir), resolve=resolve)
        return local.launch(Launch(plan, pathlib.Path(workdir), int(jobs), FAKE))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
