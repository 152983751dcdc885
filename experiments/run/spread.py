"""The mean of scores over seeds, and its confidence interval."""

import json
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit

from files import write_atomically

FILE = "members.json"


def find_interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of the values, and the lower and upper end of its confidence interval by Student's t.

    For one value both ends are nan.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = find_half_width(len(values), share) * statistics.stdev(values)
    return mean, mean - half, mean + half


def find_half_width(count: int, share: float = 0.95) -> float:
    """Return half the width of the confidence interval of a mean, in standard deviations of the values.

    `count` is the number of values, 2 or more.
    """
    return float(stdtrit(count - 1, (1 + share) / 2)) / math.sqrt(count)


def measure_spread(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the scores of the members' last rows, with their means and 95 % intervals.

    The mean leaves out undefined values (null). `count` is the number of values in it.
    """
    first = next(iter(rows.values()))
    names = [
        name
        for name in first
        if name.startswith("val/") and not any(isinstance(row.get(name), str | list) for row in rows.values())
    ]
    scores = {}
    for name in names:
        values = {member: row.get(name) for member, row in rows.items()}
        defined = [value for value in values.values() if value is not None]
        mean, low, high = find_interval(defined) if defined else (math.nan,) * 3
        found = {"mean": mean, "low": low, "high": high}
        scores[name] = {key: None if math.isnan(value) else value for key, value in found.items()}
        scores[name] |= {"count": len(defined), "values": values}
    return {"step": first["step"], "members": list(rows), "interval": 0.95, "scores": scores}


def write_spread(workdir: pathlib.Path, spread: Mapping[str, Any]) -> None:
    """Write the spread to members.json in the directory of the members."""
    write_atomically(workdir / FILE, json.dumps(spread, indent=2).encode() + b"\n")


def format_spread(spread: Mapping[str, Any]) -> str:
    """Format the scores as aligned text, with mean, 95 % interval and the number of members with a defined value."""
    rows: list[tuple[str, ...]] = [("score", "mean", "95% from", "to", "members")]
    for name, found in spread["scores"].items():
        numbers = ["-" if found[key] is None else format(found[key], ".4f") for key in ("mean", "low", "high")]
        rows.append((name.removeprefix("val/"), *numbers, str(found["count"])))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)
