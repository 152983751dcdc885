"""What a run goes on from: the notes of its checkpoint, against the config and the data that are there now.

A run may get other `train.steps`: it goes on with its optimiser, moving average and order of the data. Where the learning
rates of the steps that are done do not depend on the number of steps (a constant schedule, say), the result is that of a
run planned so from its start. Elsewhere the steps to come have the learning rates of a run of the new length, and the
plans say so: in evidence.json, and as train/planned_steps in metrics.jsonl.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from errors import UserError, warn
from experiments.run.config_file import compare_trained, read_config
from experiments.run.directory import lead
from experiments.run.metrics_file import read_last_step
from experiments.run.optim import keeps_rates, make_schedule
from experiments.run.sessions import read_sessions

NOTHING = {"count": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}  # no row


class Resumption(NamedTuple):
    """`plans` are the numbers of steps that the run had and has, `changed` the config's fields with [value then, now]."""

    plans: list[dict[str, Any]]
    changed: dict[str, list]

    @property
    def is_exact(self) -> bool:
        """Whether the run is what it would be with its last plan from its start."""
        return all(plan["exact"] for plan in self.plans)


def resume(
    workdir: pathlib.Path, config: ConfigDict, notes: Mapping[str, Any] | None, data: Mapping[str, str]
) -> Resumption:
    """Check that `notes` can be gone on from with `config` and the data of the fingerprints `data`. None: a new run.

    Raises UserError where the data, or a field that may not change, is another one, and for too few steps.
    """
    steps = config.train.steps
    if notes is None:
        return Resumption([{"from": 0, "steps": steps, "exact": True}], {})
    step = notes["step"]
    if notes.get("data", data) != data:
        raise UserError(
            f"the data is not what {workdir} was trained on (fingerprints {notes['data']} then, {data} now); "
            "restore that data, or start a new run with config.init_from"
        )
    changed = compare_trained(workdir, notes.get("config", {}), step, config)
    plans = notes.get("plans") or lead(lambda: _find_plans(workdir, step, steps))
    before = plans[-1]["steps"]
    if before == steps:
        return Resumption(plans, changed)
    if steps <= step:
        raise UserError(
            f"config.train.steps={steps}: {workdir} is at step {step} of {before}; give more than {step}, or choose another "
            "--workdir"
        )
    exact = keeps_rates(config.optim, step, before, steps)
    if not exact:
        rates = [float(make_schedule(config.optim, planned)(step)) for planned in (before, steps)]
        warn(
            f"config.train.steps={steps}: the run was planned for {before} steps, and its schedule depends on that: from step "
            f"{step + 1} on it has the learning rates of a run of {steps} steps ({rates[1]:.3g} next, not {rates[0]:.3g}); a "
            "run planned so from its start would end elsewhere"
        )
    return Resumption([*plans, {"from": step, "steps": steps, "exact": exact}], changed)


def _find_plans(workdir: pathlib.Path, step: int, steps: int) -> list[dict[str, Any]]:
    """The plans of a run whose checkpoint keeps none, for an older version has made it.

    A start that ended before its first checkpoint has noted its plan in evidence.json, and its steps in config.json.
    """
    sessions = read_sessions(workdir / "evidence.json")
    noted = [plan for session in sessions[-1:] for plan in session.get("plans", [])]
    noted = [plan for plan in noted if plan["from"] < step or plan["steps"] == steps]
    return noted or [{"from": 0, "steps": read_config(workdir).train.steps, "exact": True}]


def check_start(workdir: pathlib.Path) -> None:
    """Raise UserError where the run in `workdir`, which has no checkpoint to go on from, once had one."""
    sessions = read_sessions(workdir / "evidence.json")
    # A checkpoint is noted as saved once it is whole. Older versions noted none: their rows tell of it.
    saved = any(session.get("saved") is not None or session.get("first_step") for session in sessions)
    every = read_config(workdir).train.checkpoint_every if (workdir / "config.json").exists() else math.inf
    if saved or read_last_step(workdir / "metrics.jsonl") > 2 * every:
        raise UserError(
            f"{workdir} had checkpoints, and {workdir / 'checkpoints' / 'last'} holds none: restore the folder from a backup, or "
            "move the run away to start again"
        )
