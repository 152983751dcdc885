"""Changes of config fields that can make a run fit its slice, tried by compiling."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from experiments.preflight.steps import MEGA, Steps

AXES = (4, 16)  # sizes of the axis fsdp to try


def list_remedies(steps: Steps) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the kinds of remedies, each with the fields to set, the mildest first.

    Remedies that are too mild for the memory that XLA reports are left out.
    """
    config, chips = steps.config, len(steps.where.devices)
    accumulate = config.optim.accumulate
    if steps.training is not None and not steps.fits(steps.training):
        rows = config.train.batch_size // (chips * accumulate)  # per chip at a time
        parts = [part for part in _powers(rows) if part >= _least(steps, steps.training)]
        if not config.train.remat:
            yield "remat", [{"train.remat": True}]
        yield "parts", [{"optim.accumulate": accumulate * part} for part in parts]
        yield "batch", [{"train.batch_size": config.train.batch_size // part} for part in parts]
        free = chips // math.prod(size for size in config.mesh[:1] if size > 0)
        yield "fsdp", [{"mesh": (1, -1, size)} for size in AXES if free % size == 0 and config.mesh[2] < size]
    late = [step for step in steps.evaluation if not steps.fits(step)]
    if late:
        least = max(_least(steps, step) for step in late)
        parts = [part for part in _powers(config.eval.batch_size // chips) if part >= least]
        yield "batch of evaluation", [{"eval.batch_size": config.eval.batch_size // part} for part in parts]


def _powers(rows: int) -> list[int]:
    """Return the powers of two, from 2 on, that divide the rows of a chip."""
    return [2**power for power in range(1, rows.bit_length()) if rows % 2**power == 0]


def _least(steps: Steps, step: Any) -> float:
    """Return the factor by which the memory is too small, as if the batch used all of it."""
    needed = steps.needed(step)
    return 1.0 if needed is None or not steps.where.memory else needed * MEGA / steps.where.memory


def try_remedies(steps: Steps, compile_with: Callable[[ConfigDict], Steps], say: Callable[[str], None]) -> list[dict]:
    """Compile with the remedies of each kind until one fits. Return all that were tried, with `fits`.

    A remedy fits if the steps that did not fit before fit with it.
    """
    tried = []
    for kind, changes in list_remedies(steps):
        of_evaluation = kind == "batch of evaluation"
        for change in changes:
            say("trying " + show(change))
            config = steps.config.copy_and_resolve_references()
            config.update_from_flattened_dict(change)
            found = compile_with(config)
            judged = found.evaluation if of_evaluation else filter(None, [found.training])
            fits = all(map(found.fits, judged))
            needed = max((found.needed(step) or 0.0 for step in found.all), default=0.0)
            tried.append({"kind": kind, "change": show(change), "fits": fits, "needed_mb": needed or None})
            if fits:
                break
    return tried


def show(change: dict[str, Any]) -> str:
    """Return a change as flags."""
    return " ".join(f"--config.{name}={str(value).replace(' ', '')}" for name, value in change.items())
