"""The columns of a summary of runs, each with its meaning and a function that measures a run."""

from collections.abc import Callable
from typing import NamedTuple

from experiments.compare.runs import Run

INTERVAL = "the mean over the seeds and its 95 % interval (Student's t)"


class Column(NamedTuple):
    """A column. `measure` returns the number of a run, None if unknown. `score` says whether it is a score."""

    title: str
    meaning: str
    measure: Callable[[Run], float | None]
    score: bool = False


def list_columns(metric: str, price: float | None) -> list[Column]:
    """List the scores by `metric`, the times and the costs of a run. `price` is that of a device-hour, None for no costs."""
    columns = [
        Column(f"best {metric}", INTERVAL, lambda run: run.best_value(metric), score=True),
        Column(f"last {metric}", f"the newest value: {INTERVAL}", lambda run: run.last(metric), score=True),
        Column(
            "hours", "training time of a run, over all its sessions, until its newest checkpoint", lambda run: run.hours
        ),
        Column("device-hours", "hours times devices of a run", lambda run: run.device_hours),
    ]
    if price is not None:
        meaning = f"device-hours times {price:g}"
        columns.append(Column("cost", meaning, lambda run: _multiply(run.device_hours, price)))
    work = "operations of a run's training steps until now, over all devices, by XLA's count"
    return [
        *columns,
        Column("images/s", "training images per second", lambda run: run.images_per_second),
        Column("PFLOP", work, lambda run: _multiply(run.training_flops, 1e-15)),
    ]


def _multiply(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
