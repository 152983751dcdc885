"""Names of runs that people can read: `lr=0.001,seed=2`."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from experiments.sweep.definition import Run

LONGEST = 80  # characters of a label; a file system's limit is 255 bytes, and Orbax adds to a name
ALIASES = {"seed.init": "seed", "seed.data": "seed.data"}  # whose last part says too little


def find_varied(runs: Sequence[Run]) -> list[str]:
    """Returns the fields that are not the same in all runs, in the order in which the runs set them."""
    fields = dict.fromkeys(field for run in runs for field in run.fields)
    return [field for field in fields if len({repr(run.fields.get(field)) for run in runs}) > 1]


def shorten(fields: Sequence[str]) -> dict[str, str]:
    """Returns {field: the shortest ending of it that is none of another's}; of `model.name` the part that says something."""
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
    """Returns a label for each run: its name, and the values of the fields in which it differs from runs of that name.

    A run without a name is labelled by its config, where those differ, and by its fields. Two labels are equal only where
    they were cut, or where the runs differ in fields to `ignore` alone.
    """
    configs = {run.config.rpartition(":")[0] or run.config for run in runs}
    labels = []
    for run in runs:
        alike = [other for other in runs if other.name == run.name]
        fields = [field for field in find_varied(alike) if field not in ignore]
        if not run.name and len(runs) == 1:
            fields = list(run.fields)
        short = shorten(fields)
        words = [run.name] if run.name else []
        if (not run.name and len(configs) > 1) or (run.name and len({other.config for other in alike}) > 1):
            words.append(_stem(run.config))
        words += [f"{short[field]}={write_value(run.fields[field])}" for field in fields if field in run.fields]
        labels.append(_clean(",".join(words) or _stem(run.config)))
    return labels


def write_value(value: Any) -> str:
    """Returns a value as people write it: 0.001, 1e-5, 96x96."""
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
