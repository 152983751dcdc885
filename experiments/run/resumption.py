"""Check a checkpoint's notes against today's config and data before a run resumes.

`train.steps` may change when a run resumes. The optimiser, the moving average and the order of the data continue. If the
learning rates of the finished steps do not depend on the number of steps (a constant schedule, for example), the result
equals that of a run planned with the new number from its start. Otherwise the remaining steps use the learning rates of a
run of the new length. The plans record this in evidence.json, and as train/planned_steps in metrics.jsonl.
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

NOTHING = {"count": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}  # of no rows


class Resumption(NamedTuple):
    """The start of a session. `plans` lists the planned steps so far, `changed` maps config fields to [old, new]."""

    plans: list[dict[str, Any]]
    changed: dict[str, list]

    @property
    def is_exact(self) -> bool:
        """True if the result equals that of a run with the last plan from its start."""
        return all(plan["exact"] for plan in self.plans)


def resume(
    workdir: pathlib.Path, config: ConfigDict, notes: Mapping[str, Any] | None, data: Mapping[str, str]
) -> Resumption:
    """Check that a run can resume from its checkpoint's `notes`, and return the start.

    `notes` are None for a new run. `data` holds the fingerprints of today's data. Raises UserError if the data or a field
    that may not change has changed, and if `config.train.steps` is too small.
    """
    steps = config.train.steps
    if notes is None:
        return Resumption([{"from": 0, "steps": steps, "exact": True}], {})
    step = notes["step"]
    if notes.get("data", data) != data:
        raise UserError(
            f"the data is not what {workdir} was trained on (fingerprints {notes['data']} then, {data} now); "
            "restore the old data, or start a new run with config.init_from"
        )
    changed = compare_trained(workdir, notes.get("config", {}), step, config)
    plans = notes.get("plans") or lead(lambda: _find_plans(workdir, step, steps))
    before = plans[-1]["steps"]
    if before == steps:
        return Resumption(plans, changed)
    if steps <= step:
        raise UserError(
            f"config.train.steps={steps} is too small: {workdir} is at step {step} of {before}; give more than {step}, or choose "
            "another --workdir"
        )
    exact = keeps_rates(config.optim, step, before, steps)
    if not exact:
        rates = [make_schedule(config.optim, planned)(step) for planned in (before, steps)]
        warn(
            f"config.train.steps={steps}: the run was planned for {before} steps, and its schedule depends on that number. From "
            f"step {step + 1} on it uses the learning rates of a run of {steps} steps ({rates[1]:.3g} next, not "
            f"{rates[0]:.3g}). A run planned for {steps} steps from its start would give another result"
        )
    return Resumption([*plans, {"from": step, "steps": steps, "exact": exact}], changed)


def _find_plans(workdir: pathlib.Path, step: int, steps: int) -> list[dict[str, Any]]:
    """Return the plans of a run whose checkpoint, made by an older version, stores none.

    A start that ended before its first checkpoint has stored its plan in evidence.json, and its steps in config.json.
    """
    sessions = read_sessions(workdir / "evidence.json")
    noted = [plan for session in sessions[-1:] for plan in session.get("plans", [])]
    noted = [plan for plan in noted if plan["from"] < step or plan["steps"] == steps]
    return noted or [{"from": 0, "steps": read_config(workdir).train.steps, "exact": True}]


def check_start(workdir: pathlib.Path) -> None:
    """Raise UserError if the run in `workdir` has no checkpoint but once had one."""
    sessions = read_sessions(workdir / "evidence.json")
    # evidence.json names a checkpoint once it is complete. For older versions, which name none, the metrics show it.
    saved = any(session.get("saved") is not None or session.get("first_step") for session in sessions)
    every = read_config(workdir).train.checkpoint_every if (workdir / "config.json").exists() else math.inf
    if saved or read_last_step(workdir / "metrics.jsonl") > 2 * every:
        raise UserError(
            f"{workdir} had checkpoints, but {workdir / 'checkpoints' / 'last'} contains none; restore the folder from a backup, "
            "or move the run away to start again"
        )
