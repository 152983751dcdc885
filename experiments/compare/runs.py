"""Runs as their directories show them, with config, rows, scores, time and cost. Writes nothing and imports no jax.

A run that still trains, or whose files are partly damaged, is a run too. Its `problems` list the files that cannot be read.
"""

import contextlib
import dataclasses
import errno
import functools
import itertools
import math
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

from errors import UserError
from experiments.metrics.registry import ERRORS
from experiments.run.config_file import flatten_json
from experiments.run.metrics_file import is_row, parse_row
from experiments.run.sessions import measure_seconds
from experiments.sweep.state import in_use
from files import expand_user, parse_json, read_bytes, read_json
from limits import RECORDS
from wording import make_printable

# The loss and its terms, by the names that the tasks give them.
LOSSES = {"loss", "cross_entropy", "dice", "focal", "lovasz_softmax", "ohem", "generator", "discriminator"}
LOSSES |= {"classification", "localisation", "centerness", "objectness", "proposals", "masks"}
LOSSES |= {"coordinates", "sizes", "confidence", "no_object", "classes"}
# The fields of a config that are used here, each with a check of its value.
USED = {
    "train.steps": lambda value: type(value) is int and value >= 0,
    "train.batch_size": lambda value: type(value) is int and value > 0,
    "train.best": lambda value: isinstance(value, str),
    "init_from": lambda value: isinstance(value, str),
    "eval.metrics": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "eval.scored_detections": lambda value: type(value) is int and value > 0,
}
Flat = dict[str, Any]  # the fields of a config by dotted name


@dataclasses.dataclass
class Run:
    """One run, with the `rows` of metrics.jsonl and the `sessions` of evidence.json."""

    name: str
    workdir: pathlib.Path
    config: Flat
    rows: list[dict]
    sessions: list[dict]
    problems: list[str]

    def field(self, name: str) -> Any:
        """Return a field of the stored config, or None if the run is older than the field or damaged."""
        return self.config.get(name)  # a stored config, which has no defaults

    @property
    def step(self) -> int:
        """The step of the last row, 0 before the first."""
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def steps(self) -> int:
        """The step at which the run ends."""
        return self.field("train.steps") or 0

    @property
    def state(self) -> str:
        """The text `done`, `running` if a process trains in the directory, or `unfinished`."""
        with contextlib.suppress(OSError):  # another user's lock
            if in_use(self.workdir):
                return "running"
        done = bool(self.rows) and self.step >= self.steps and any(name.startswith("val/") for name in self.rows[-1])
        return "done" if done else "unfinished"

    @property
    def metric(self) -> str:
        """The score that chooses the run's best checkpoint."""
        return self.field("train.best") or "val/loss"

    def values(self, name: str) -> dict[int, float]:
        """Return the defined values of `name` by step."""
        found = {row["step"]: row.get(name) for row in self.rows}
        return {step: value for step, value in found.items() if is_number(value)}

    def last(self, name: str) -> float | None:
        """Return the newest value of `name`, or None before the first."""
        return next(reversed(self.values(name).values()), None)

    def best(self, name: str) -> tuple[int, float] | None:
        """Return the step and the best value of `name`, by its direction, or None before the first."""
        values = self.values(name)
        better = min if is_smaller_better(name) else max
        return better(values.items(), key=lambda item: item[1], default=None)

    def best_value(self, name: str) -> float | None:
        """Return the best value of `name`, or None before the first."""
        found = self.best(name)
        return found and found[1]

    @functools.cached_property
    def names(self) -> list[str]:
        """The names of the run's numbers, in the order of their first rows."""
        names = dict.fromkeys(name for row in self.rows for name, value in row.items() if is_number(value))
        return [name for name in names if name != "step"]

    @property
    def hours(self) -> float | None:
        """The hours of training over all sessions, until the newest checkpoint, or None if unknown."""
        seconds = measure_seconds(self.sessions) if self.sessions else None
        return None if seconds is None else seconds / 3600

    @property
    def device_hours(self) -> float | None:
        """The hours times the devices of each session, summed. Members that share devices have equal parts of them."""
        total = 0.0
        for own in self.sessions:
            hours = dataclasses.replace(self, sessions=[own]).hours
            if hours is None:
                return None
            total += hours * (count_devices(own) / _count(own, "runs_on_devices", 1))
        return total if self.sessions else None

    @property
    def images_per_second(self) -> float | None:
        """The training images per second of the newest session that has measured them, or None."""
        found = (own.get("images_per_second") for own in reversed(self.sessions))
        return next((rate for rate in found if is_number(rate)), None)

    @property
    def training_flops(self) -> float | None:
        """The floating-point operations of all steps until the last row, over all devices, or None without XLA's count."""
        own = next((own for own in reversed(self.sessions) if is_number(own.get("flops_per_step"))), None)
        return None if own is None else own["flops_per_step"] * count_devices(own) * self.step


def count_devices(session: dict) -> int:
    """Return the number of devices that ran a session's steps."""
    devices = session.get("devices")
    return _count(session, "devices_of_run", _count(devices if isinstance(devices, dict) else {}, "count", 1))


def _count(facts: dict, name: str, default: int) -> int:
    value = facts.get(name)
    return value if type(value) is int and value > 0 else default


def is_smaller_better(name: str) -> bool:
    """Return whether smaller is better for `name`, as for errors, losses, times and numbers of lost objects."""
    _, _, rest = name.partition("/")
    return rest in ERRORS or rest in LOSSES or rest in ("input_wait", "evaluation", "boxes_lost", "unmatched")


def find_runs(places: Sequence[str]) -> list[Run]:
    """Read the runs in `places`, directories of runs or folders of runs, such as those of a sweep or of members.

    The names of runs are those of their directories, with as many parent folders as make them unique. A run that links reach
    twice is one run. Raise UserError if a place has no run or cannot be read.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for place in places:
        workdir = expand_user(place).absolute()
        try:
            own = list(_find(workdir))
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read: {error.strerror}; make it readable, or name the other runs"
            ) from None
        if not own:
            reason = "has no run, and no folder in it has one" if workdir.is_dir() else "is not a folder"
            raise UserError(f"{place} {reason}; name the --workdir of a run or a sweep")
        for one in own:
            found.setdefault(one.resolve(), one)
    workdirs = list(found.values())
    names = map(make_printable, _name(workdirs))
    return [read_run(workdir, name) for workdir, name in zip(workdirs, names, strict=True)]


def _find(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    children = sorted(filter(_holds_run, workdir.iterdir())) if workdir.is_dir() else []
    if _holds_run(workdir) and not (children and _holds_members(workdir)):
        yield workdir
        return
    for child in children:
        yield from _find(child)


def _holds_run(folder: pathlib.Path) -> bool:
    """Return whether a folder has a config. Raise OSError if the folder cannot be read, because it may have one."""
    try:
        (folder / "config.json").stat()
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def _holds_members(workdir: pathlib.Path) -> bool:
    try:
        members = read_json(workdir / "config.json").get("members")
    except UserError:
        return False
    return type(members) is int and members > 1


def _name(workdirs: Sequence[pathlib.Path]) -> list[str]:
    length = 1
    while True:
        names = ["/".join(workdir.parts[-length:]) for workdir in workdirs]
        repeated = Counter(names)
        if max(repeated.values(), default=1) == 1 or length > max(len(workdir.parts) for workdir in workdirs):
            return names
        length += 1


def read_run(workdir: pathlib.Path, name: str) -> Run:
    """Read a run. Missing or damaged parts are left out and listed in its `problems`."""
    problems: list[str] = []

    def read(file: str) -> dict:
        try:
            return read_json(workdir / file)
        except FileNotFoundError:
            problems.append(f"{file} is missing")
        except UserError as error:
            problems.append(_shorten(error, workdir))
        return {}

    config, evidence = flatten_json(read("config.json")), read("evidence.json")
    for field in [field for field, is_valid in USED.items() if field in config and not is_valid(config[field])]:
        problems.append(f"config.json: {field}={config.pop(field)!r} is not valid and left out")
    sessions = evidence.get("sessions", [])
    sessions = [own for own in sessions if isinstance(own, dict)] if isinstance(sessions, list) else []
    config |= _describe_plans(sessions)
    return Run(name, workdir, config, _read_rows(workdir / "metrics.jsonl", problems), sessions, problems)


def _shorten(error: UserError, workdir: pathlib.Path) -> str:
    """Return the text of an error without the run's directory, because the name of the run precedes it."""
    return str(error).replace(f"{workdir}{os.sep}", "")


def _describe_plans(sessions: list[dict]) -> Flat:
    """Return the field `train.plans` for a run whose number of steps changed by the rule of resumption.py.

    The field separates it from a run that had this number from its start.
    """
    plans = sessions[-1].get("plans") if sessions else None
    plans = [plan for plan in plans if isinstance(plan, dict)] if isinstance(plans, list) else []
    if all(plan.get("exact") for plan in plans):
        return {}
    return {"train.plans": ", then ".join(str(plan.get("steps")) for plan in plans)}


def _read_rows(path: pathlib.Path, problems: list[str]) -> list[dict]:
    """Read the complete rows of a file that may still grow. Damaged rows are skipped and counted."""
    try:
        lines = read_bytes(path, RECORDS).split(b"\n")[:-1]
    except FileNotFoundError:
        problems.append(f"{path.name} cannot be read: {os.strerror(errno.ENOENT)}")
        return []
    except UserError as error:
        problems.append(_shorten(error, path.parent))
        return []
    with contextlib.suppress(UserError):  # all at once: names are then in memory once, not once per row
        rows = parse_json(b"[" + b",".join(lines) + b"]", path, list)
        if all(map(is_row, rows)) and all(one["step"] < other["step"] for one, other in itertools.pairwise(rows)):
            return rows
    rows, damaged = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parse_row(path, number, line, after=rows[-1]["step"] if rows else -1))
        except UserError:
            damaged += 1
    if damaged:
        problems.append(f"{path.name}: {damaged} damaged lines are skipped")
    return rows


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value of a row or a session is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
