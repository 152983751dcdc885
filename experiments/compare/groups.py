"""Groups of runs that differ only in their seeds. A group's scores have a mean and a 95 % interval."""

import dataclasses
import json
import math
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.compare.runs import Flat, Run
from experiments.run.config_file import FREE
from experiments.run.spread import find_interval
from experiments.sweep.naming import shorten, write_value
from wording import make_printable

IGNORED = ("seed.", "wandb.")  # sections in which runs of one method may differ
LONGEST_NAME = 3  # fields in the name of a group


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with one config. `fields` are its values of the fields in which the groups differ, by dotted name."""

    name: str
    runs: tuple[Run, ...]
    fields: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Spread:
    """The mean of a number over `count` runs, and the ends of its 95 % interval (Student's t), nan for one run."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return the spread of the values that are not None, or None if there are none."""
    own = [value for value in values if value is not None]
    return Spread(*find_interval(own), len(own)) if own else None


def fold(runs: Sequence[Run], seeds: bool = True) -> list[Group]:
    """Group runs by their configs without the seeds, in the order of first runs.

    With `seeds` False each run is a group.
    """
    known = {run.workdir: run for run in runs}
    kinds: dict[str, list[Run]] = {}
    for run in runs:
        kinds.setdefault(_identify(run, known) if seeds else str(run.workdir), []).append(run)
    varied = find_varied([own[0] for own in kinds.values()], known)
    fields = [{field: own[0].config[field] for field in varied if field in own[0].config} for own in kinds.values()]
    names = map(make_printable, _name(list(kinds.values()), fields))
    return [Group(*parts) for parts in zip(names, map(tuple, kinds.values()), fields, strict=True)]


def find_varied(runs: Sequence[Run], known: Mapping[pathlib.Path, Run] | None = None) -> list[str]:
    """Return the fields in which the runs differ, without seeds and settings that do not change results.

    A run may lack a field that is newer than the run. Such a field counts only if two runs differ in nothing else.
    """
    configs = [_settle(run, known or {}) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: {json.dumps(config[name]) for config in configs if name in config} for name in names}
    varied = {name for name, own in values.items() if len(own) > 1}
    alike: dict[str, list[Flat]] = {}
    for config in configs:
        alike.setdefault(json.dumps([config.get(name) for name in sorted(varied)]), []).append(config)
    for own in alike.values():
        varied.update(name for name in names if 0 < sum(name in config for config in own) < len(own))
    return sorted(varied)


def list_repeated(group: Group) -> list[str]:
    """List the names of a group's runs whose seeds another run has, too."""
    seeds = [json.dumps({k: v for k, v in run.config.items() if k.startswith("seed.")}) for run in group.runs]
    return [run.name for run, own in zip(group.runs, seeds, strict=True) if run.config and seeds.count(own) > 1]


def count_states(group: Group) -> str:
    """Return the states of a group's runs as text, such as `done` or `2 done, 1 running`."""
    states = Counter(run.state for run in group.runs)
    return next(iter(states)) if len(states) == 1 else ", ".join(f"{count} {kind}" for kind, count in states.items())


def _settle(run: Run, known: Mapping[pathlib.Path, Run]) -> Flat:
    """Return the fields that define a method.

    If a run starts from one of the `known` runs, the seeds of that one do not count.
    """
    own = {
        name: value
        for name, value in run.config.items()
        if not name.startswith(IGNORED) and name not in FREE and name != "members"
    }
    start = known.get(pathlib.Path(own.get("init_from") or "."))
    if start is None or start is run:
        return own
    others = {place: other for place, other in known.items() if other is not run}  # damaged runs may name each other
    return own | {"init_from": _identify(start, others)}


def _identify(run: Run, known: Mapping[pathlib.Path, Run]) -> str:
    """Return the identity of a run's group as text. A run without a config has a group of its own."""
    return json.dumps(_settle(run, known), sort_keys=True) if run.config else str(run.workdir)


def _name(kinds: Sequence[Sequence[Run]], fields: Sequence[Flat]) -> list[str]:
    """Return the names of groups, the names of their runs without seeds if these are unique, else the varied fields."""
    stems = [{_stem(run.name) for run in runs} for runs in kinds]
    shared = [own.pop() if len(own) == 1 else "" for own in stems]
    short = shorten(list(dict.fromkeys(field for own in fields for field in own)))
    names = []
    for runs, stem, own in zip(kinds, shared, fields, strict=True):
        if stem and shared.count(stem) == 1:
            names.append(stem)
        elif len(runs) == 1:
            names.append(runs[0].name)
        elif own and len(own) <= LONGEST_NAME:
            names.append(",".join(f"{short[field]}={write_value(value)}" for field, value in own.items()))
        else:
            names.append(f"{runs[0].name} and {len(runs) - 1} more")
    return names


def _stem(name: str) -> str:
    """Return the name of a run's directory without its seeds and without the digits that a sweep adds."""
    *folders, own = name.split("/")
    words = re.sub(r"-[0-9a-f]{6}([0-9a-f]{58})?$", "", own).split(",")
    return "/".join([*folders, ",".join(word for word in words if not re.match(r"seed(\.\w+)?=\d+$", word))]).strip("/")


def describe(value: Spread | None, digits: int = 4) -> str:
    """Format a spread as `0.9123 ± 0.0040`, as the mean alone for one run, and as `-` for None."""
    if value is None:
        return "-"
    mean = f"{value.mean:.{digits}f}"
    return mean if math.isnan(value.half) else f"{mean} ± {value.half:.{digits}f}"
