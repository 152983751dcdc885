"""Resolve and check configs in a separate process, for a launcher that imports no jax and starts no device.

    python -m experiments.run.resolution < request.json

A request contains `runs`, a list of {"config": FILE:VARIANT, "fields": ["--config.NAME=VALUE", ...]}, `stored`, a list of run
directories, and `data_dir`. The answer contains for each run {"fields": {NAME: value}, "smaller_is_better": bool} or {"error":
line}. The fields include the defaults of the model and task and the fields that the data settles. `smaller_is_better` is the
direction of the score in config.train.best. For each run directory the answer contains all fields of its config.json, or null if
this code cannot read it.
"""

import json
import os
import pathlib
import subprocess
import sys

from errors import UserError
from experiments.command_line import read_experiment
from experiments.run.config_file import flatten, read_config
from experiments.run.open_fields import settle

ROOT = pathlib.Path(__file__).parents[2]


def ask(request: dict) -> dict:
    """Answer a request in another process. Raises UserError if that fails."""
    command = [sys.executable, "-m", "experiments.run.resolution"]
    others = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), others] if others else [str(ROOT)]),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        command,
        input=json.dumps(request),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,  # only the launcher gets Ctrl-C, because it may have runs to save
    )
    if done.returncode != 0:
        raise UserError(
            f"the configs could not be checked: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )
    return json.loads(done.stdout)


def resolve(request: dict) -> dict:
    """Answer a request in this process."""
    stored = {place: _read(pathlib.Path(place)) for place in request["stored"]}
    return {"runs": [_resolve(request["data_dir"], **run) for run in request["runs"]], "stored": stored}


def _resolve(data_dir: str | None, config: str, fields: list[str]) -> dict:
    from experiments.run.best import is_smaller_better  # here because these import numpy and jax
    from experiments.run.configuration import check, complete

    try:
        resolved = read_experiment(config, fields)
        check(resolved)
        resolved = settle(resolved, data_dir)
        smaller = is_smaller_better(resolved.train.best)
        return {
            "fields": flatten(complete(resolved.to_dict(), pathlib.Path(config))),
            "smaller_is_better": smaller,
        }
    except UserError as error:
        return {"error": str(error)}


def _read(workdir: pathlib.Path) -> dict | None:
    try:
        return flatten(read_config(workdir))
    except (UserError, OSError):
        return None


def main() -> None:
    request, answers = json.load(sys.stdin), sys.stdout
    sys.stdout = sys.stderr  # what a config file prints must not enter the answer
    json.dump(resolve(request), answers)


if __name__ == "__main__":
    main()
