"""The executor `--executor=wandb`, which writes a sweep for the agents of W&B.

An agent runs main.py on the machine where it is started. W&B gives it combinations of values, so the runs of the sweep must be
all combinations of their fields' values, such as a grid with seeds. Start agents in the repository's folder: the paths of the
program, of Python and of the sweep's folder are relative to it.
"""

import itertools
import json
import sys
from collections.abc import Sequence

import yaml

from errors import UserError
from experiments.sweep.commands import shorten
from experiments.sweep.launch import Launch
from experiments.sweep.plan import Job, list_varied
from files import write_atomically

FILE = "wandb-sweep.yaml"  # in the sweep's folder


def launch(sweep: Launch) -> int:
    """Write the sweep's YAML and print the next command. Return 0. Raise UserError if the runs are not a grid."""
    place = sweep.workdir / FILE
    write_atomically(place, yaml.safe_dump(describe(sweep), sort_keys=False).encode())
    print(
        f"{len(sweep.jobs)} runs; now run once: wandb sweep {shorten(place)}; it prints the command that starts an agent"
    )
    return 0


def describe(sweep: Launch) -> dict:
    """Return the sweep in the format of W&B. Raise UserError if the runs are not a grid."""
    jobs = sweep.jobs
    texts = [_values(job) for job in jobs]
    names = _parameters(jobs)
    if any(job.start is not None for job in jobs) or any(name not in text for name in names for text in texts):
        raise UserError(
            "--executor=wandb: W&B cannot start runs in an order, and all runs must set the same fields; use "
            "--executor=print"
        )
    parameters = {name: list(dict.fromkeys(text[name] for text in texts)) for name in names}
    count = len(list(itertools.product(*parameters.values())))
    if count != len(jobs):
        raise UserError(
            f"--executor=wandb: W&B would run all {count} combinations of the values, but the sweep has {len(jobs)} runs; "
            "define the sweep as one grid(), with seeds() if needed, or use --executor=print"
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
        # main.py replaces the variable by the id of the W&B run, so a repeated run resumes.
        "command": [shorten(sys.executable), "${program}", *shared, f"--workdir={folder}/$WANDB_RUN_ID", "${args}"],
    }
    return {name: value for name, value in described.items() if value}


def _parameters(jobs: Sequence[Job]) -> list[str]:
    """Return the names of the flags that differ, without hyphens."""
    return [name if name == "config" else f"config.{name}" for name in list_varied(jobs)]


def _values(job: Job) -> dict[str, str]:
    """Return the flags of a run as text."""
    return dict(word.removeprefix("--").split("=", 1) for word in job.arguments)


def _plain(text: str) -> str | int | float:
    """Return a number as a number, so that W&B draws it as one."""
    try:
        return json.loads(text, parse_constant=lambda _: text)
    except ValueError:
        return text
