"""The curves of runs for a page, thinned to few points without losing spikes, ends and best values."""

import base64
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from experiments.compare.runs import Run

POINTS = 500  # per curve; the page can draw hundreds of curves


@dataclasses.dataclass(frozen=True)
class Curve:
    """Values by rising step, and for a thinned curve the means of buckets of steps.

    `values` keeps the smallest and the largest value of each bucket, so that a spike of a single step stays visible. Their mean
    is not the mean of the bucket. So smoothing, and averages over seeds, use `means`, at the middle of each bucket.
    """

    steps: np.ndarray
    values: np.ndarray
    middles: np.ndarray | None = None
    means: np.ndarray | None = None


def read_columns(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the steps and the defined values of each number of a run by name, in the order of steps."""
    columns: dict[str, tuple[list, list]] = {}
    for row in run.rows:
        step = row["step"]
        for name, value in row.items():
            if type(value) in (int, float) and name != "step":
                steps, values = columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    found = {}
    for name, column in columns.items():
        steps, values = np.array(column, np.float64)
        if (np.diff(steps) <= 0).any():  # repaired by hand: the newest row of a step counts
            steps, last = np.unique(steps[::-1], return_index=True)
            values = values[::-1][last]
        defined = np.isfinite(values)
        if defined.any():
            found[name] = steps[defined], values[defined]
    return found


def thin(columns: Sequence[tuple[np.ndarray, np.ndarray]], points: int = POINTS) -> list[Curve]:
    """Thin the curves (steps, values) of a group's runs to about `points` each, by the same buckets of steps.

    A curve keeps its first and last point and its smallest and largest value, one of which is the best.
    """
    every = np.unique(np.concatenate([steps for steps, _ in columns]))
    if len(every) <= points:
        return [Curve(steps, values) for steps, values in columns]
    edges = np.linspace(every[0], every[-1], points // 2 + 1)
    return [_thin(steps, values, edges) for steps, values in columns]


def _thin(steps: np.ndarray, values: np.ndarray, edges: np.ndarray) -> Curve:
    bucket = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, len(edges) - 2)
    order = np.lexsort((values, bucket))
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    ends = np.append(starts[1:], len(steps)) - 1
    kept = np.unique(np.concatenate([[0, len(steps) - 1], order[starts], order[ends]]))
    filled = bucket[starts]
    means = np.add.reduceat(values, starts) / np.diff(starts, append=len(steps))
    return Curve(steps[kept], values[kept], (edges[filled] + edges[filled + 1]) / 2, means)


def find_hours(run: Run, points: int = POINTS) -> tuple[np.ndarray, np.ndarray] | None:
    """Return steps and the hours of training and evaluation until each of them, computed from the rows.

    The time of a step comes from `time/images_per_second` in the next row that has it. The hours do not include compilation,
    checkpoints and pauses. Return None if no row has a rate.
    """
    batch = run.field("train.batch_size")
    rows = [row for row in run.rows if row["step"] >= 0]
    steps = np.array([row["step"] for row in rows], np.float64)
    rates = np.array([_read_number(row, "time/images_per_second") for row in rows])
    known = np.flatnonzero(rates > 0)
    if not known.size or not isinstance(batch, int):
        return None
    following = known[np.minimum(np.searchsorted(known, np.arange(len(rows))), len(known) - 1)]
    evaluations = np.nan_to_num([_read_number(row, "time/evaluation") for row in rows])
    seconds = np.maximum(np.diff(steps, prepend=0), 0) * batch / rates[following] + np.maximum(evaluations, 0)
    hours = np.cumsum(seconds) / 3600
    kept = np.unique(np.linspace(0, len(rows) - 1, points).round().astype(int))
    return np.append(0, steps[kept]), np.append(0, hours[kept])


def _read_number(row: dict, name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def encode(values: np.ndarray, kind: str) -> str:
    """Return numbers as text, the base64 of a little-endian array. Values outside the range of `<u4` are clipped."""
    if kind == "<u4":
        values = np.clip(np.round(values), 0, 2**32 - 1)
    return base64.b64encode(np.asarray(values, kind).tobytes()).decode()


def decode(text: str, kind: str) -> np.ndarray:
    """Return the numbers of a text from `encode`."""
    return np.frombuffer(base64.b64decode(text), kind)
