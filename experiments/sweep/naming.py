"""Readable names of runs, such as `lr=0.001,seed=2`."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from experiments.sweep.definition import Run

LONGEST = 80  # characters of a label; file systems allow 255 bytes, and Orbax makes names longer
ALIASES = {"seed.init": "seed", "seed.data": "seed.data"}  # the last part alone would be unclear


def find_varied(runs: Sequence[Run]) -> list[str]:
    """Return the fields that differ between runs, in the order in which the runs set them."""
    fields = dict.fromkeys(field for run in runs for field in run.fields)
    return [field for field in fields if len({repr(run.fields.get(field)) for run in runs}) > 1]


def shorten(fields: Sequence[str]) -> dict[str, str]:
    """Return a short name for each field, the shortest ending that no other field has.

    The short name of `model.name` is `model`.
    """
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
    """Return a label for each run, from its name and the fields in which it differs from runs of that name.

    The label of a run without a name has its fields, and its config if configs differ. Two labels are equal only if they were
    cut, or if the runs differ only in the fields of `ignore`.
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
    """Return a value as people write it, such as 0.001, 1e-5 or 96x96."""
    if isinstance(value, list | tuple):
        return "x".join(map(write_value, value)) or "none"
    if isinstance(value, float):
        return re.sub(r"e([+-]?)0*(\d)", r"e\1\2", repr(value)).replace("e+", "e").removesuffix(".0")
    return str(value)


def _stem(config: str) -> str:
    path, _, variant = config.partition(":")
    return pathlib.PurePath(path).stem + (f"-{variant}" if variant else "")


def _clean(text: str) -> str:
    """Return text without characters that are special for file systems, shells or the glob patterns of Orbax."""
    text = re.sub(r"[^A-Za-z0-9.,=_+-]+", "-", text).lstrip("-.")
    return text[:LONGEST].rstrip(",=-.") or "run"
