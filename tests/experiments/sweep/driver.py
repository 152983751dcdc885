"""A launcher of fake runs, `python -m tests.experiments.sweep.driver FILE WORKDIR [JOBS [TRIALS]]`.

With TRIALS it runs a search, else a sweep. It imports no jax.
"""

import pathlib
import sys

from errors import UserError
from experiments.command_line import read_experiment
from experiments.run.config_file import flatten
from experiments.sweep import local
from experiments.sweep.launch import Launch, Search
from experiments.sweep.plan import make_plan

FAKE = pathlib.Path(__file__).with_name("fake_main.py")


def resolve(request: dict) -> dict:
    """Resolve configs without checking them."""
    configs = [flatten(read_experiment(run["config"], run["fields"])) for run in request["runs"]]
    runs = [{"fields": config, "smaller_is_better": config["train.best"] == "val/loss"} for config in configs]
    return {"runs": runs, "stored": {}}


def main(file: str, workdir: str, jobs: str = "2", trials: str = "") -> int:
    try:
        if trials:
            from experiments.sweep import search

            place = pathlib.Path(workdir)
            return search.launch(Search(file, {}, place, int(trials), 0, int(jobs), None, FAKE, resolve))
        plan = make_plan(file, {}, pathlib.Path(workdir), resolve=resolve)
        return local.launch(Launch(plan, pathlib.Path(workdir), int(jobs), FAKE))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
