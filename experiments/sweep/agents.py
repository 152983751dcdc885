"""`--executor=wandb`: a sweep for W&B's agents, which run main.py wherever they are.

W&B hands out combinations of values. So the runs must be every combination of their fields' values, as a grid with seeds is.
Agents are started in the repository's folder: program, Python and the sweep's folder are named as they are seen from there.
"""

import itertools
import json
import sys

import yaml

from errors import UserError
from experiments.sweep.commands import shorten
from experiments.sweep.launch import Launch
from experiments.sweep.plan import Job, list_varied
from files import write_atomically

FILE = "wandb-sweep.yaml"  # in the sweep's folder


def launch(sweep: Launch) -> int:
    """Write the sweep's YAML, and prints what to do with it. Return 0. Raise UserError for runs that are no grid."""
    place = sweep.workdir / FILE
    write_atomically(place, yaml.safe_dump(describe(sweep), sort_keys=False).encode())
    print(
        f"{len(sweep.jobs)} runs; next, once: wandb sweep {shorten(place)}; it prints the command that starts an agent"
    )
    return 0


def describe(sweep: Launch) -> dict:
    """Return the sweep as W&B takes it. Raise UserError for runs that are no grid."""
    jobs = sweep.jobs
    texts = [_values(job) for job in jobs]
    parameters = {name: list(dict.fromkeys(text.get(name) for text in texts)) for name in _parameters(jobs)}
    count = len(list(itertools.product(*parameters.values())))
    if any(job.start is not None for job in jobs) or any(None in values for values in parameters.values()):
        raise UserError(
            "--executor=wandb: W&B knows no order of runs, and each run must set the same fields; use --executor=print"
        )
    if count != len(jobs):
        raise UserError(
            f"--executor=wandb: W&B would run all {count} combinations of the values, and the sweep has {len(jobs)} runs; "
            "define it as one grid(), with seeds() if need be, or use --executor=print"
        )
    config, folder = jobs[0].config, shorten(sweep.workdir)
    shared = [word for word in jobs[0].arguments if all(word in job.arguments for job in jobs)]
    described = {
        "project": config["wandb.project"],
        "entity": config["wandb.entity"],
        "name": sweep.workdir.name,
        "method": "grid",
        "parameters": {name: {"values": list(map(_plain, values))} for name, values in parameters.items()},
        "program": shorten(sweep.program),
        # main.py puts the id of W&B's run in place of the variable: a run that is tried again resumes.
        "command": [shorten(sys.executable), "${program}", *shared, f"--workdir={folder}/$WANDB_RUN_ID", "${args}"],
    }
    return {name: value for name, value in described.items() if value}


def _parameters(jobs: list[Job]) -> list[str]:
    """Return the flags that differ, without their hyphens."""
    return [name if name == "config" else f"config.{name}" for name in list_varied(jobs)]


def _values(job: Job) -> dict[str, str]:
    """Return a run's flags as text."""
    return dict(word.removeprefix("--").split("=", 1) for word in job.arguments)


def _plain(text: str) -> str | int | float:
    """Return a number as a number, so that W&B draws it as one."""
    try:
        return json.loads(text, parse_constant=lambda _: text)
    except ValueError:
        return text
