"""Names of runs that people can read: `lr=0.001,seed=2`."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from experiments.sweep.definition import Run

LONGEST = 80  # characters of a label; a file system's limit is 255 bytes, and Orbax adds to a name
ALIASES = {"seed.init": "seed", "seed.data": "seed.data"}  # whose last part says too little


def find_varied(runs: Sequence[Run]) -> list[str]:
    """Return the fields that are not the same in all runs, in the order in which the runs set them."""
    fields = dict.fromkeys(field for run in runs for field in run.fields)
    return [field for field in fields if len({repr(run.fields.get(field)) for run in runs}) > 1]


def shorten(fields: Sequence[str]) -> dict[str, str]:
    """Return {field: the shortest ending of it that is none of another's}; of `model.name` the part that says something."""
    parts = {field: ALIASES.get(field, field.removesuffix(".name")).split(".") for field in fields}
    short = {}
    for field, own in parts.items():
        if field in ALIASES:
            short[field] = ALIASES[field]
            continue
        others = [".".join(other) for name, other in parts.items() if name != field]
        endings = [".".join(own[start:]) for start in range(len(own) - 1, -1, -1)]
        free = (end for end in endings if not any(f".{other}".endswith(f".{end}") for other in others))
        short[field] = next(free, field)
    return short


def label(runs: Sequence[Run], ignore: tuple[str, ...] = ()) -> list[str]:
    """Return a label for each run: its name, and the values of the fields in which it differs from runs of that name.

    A run without a name is labelled by its config, where those differ, and by its fields. Two labels are equal only where
    they were cut, or where the runs differ in fields to `ignore` alone.
    """
    fields: dict[str, list[str]] = {}
    configs: dict[str, set[str]] = {}
    for name in dict.fromkeys(run.name for run in runs):
        alike = [run for run in runs if run.name == name]
        varied = find_varied(alike) if len(runs) > 1 else list(runs[0].fields) if not name else []
        fields[name] = [field for field in varied if field not in ignore]
        configs[name] = {run.config for run in (alike if name else runs)}
    short = {name: shorten(own) for name, own in fields.items()}
    labels = []
    for run in runs:
        words = [run.name] if run.name else []
        words += [_stem(run.config)] if len(configs[run.name]) > 1 else []
        words += [f"{short[run.name][f]}={write_value(run.fields[f])}" for f in fields[run.name] if f in run.fields]
        labels.append(_clean(",".join(words) or _stem(run.config)))
    return labels


def write_value(value: Any) -> str:
    """Return a value as people write it: 0.001, 1e-5, 96x96."""
    if isinstance(value, list | tuple):
        return "x".join(map(write_value, value)) or "none"
    if isinstance(value, float):
        return re.sub(r"e([+-]?)0*(\d)", r"e\1\2", repr(value)).replace("e+", "e").removesuffix(".0")
    return str(value)


def _stem(config: str) -> str:
    path, _, variant = config.partition(":")
    return pathlib.PurePath(path).stem + (f"-{variant}" if variant else "")


def _clean(text: str) -> str:
    """What file systems, shells and Orbax take as it is: Orbax reads a path as a pattern of names."""
    text = re.sub(r"[^A-Za-z0-9.,=_+-]+", "-", text).lstrip("-.")
    return text[:LONGEST].rstrip(",=-.") or "run"
