"""Runs as their directories show them: config, rows, scores, time and cost. Reads only, and imports no jax.

A run that still trains, or whose files are damaged in part, is a run too: `problems` says what could not be read.
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
from typing import Any

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
# The fields of a config that decide something here, and whether a value can be theirs.
USED = {
    "train.steps": lambda value: type(value) is int and value >= 0,
    "train.batch_size": lambda value: type(value) is int and value > 0,
    "train.best": lambda value: isinstance(value, str),
    "init_from": lambda value: isinstance(value, str),
    "eval.metrics": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "eval.scored_detections": lambda value: type(value) is int and value > 0,
}
Flat = dict[str, Any]  # the fields of a config by their dotted names


@dataclasses.dataclass
class Run:
    """One run. `rows` are those of metrics.jsonl, `sessions` those of evidence.json."""

    name: str
    workdir: pathlib.Path
    config: Flat
    rows: list[dict]
    sessions: list[dict]
    problems: list[str]

    def field(self, name: str) -> Any:
        """Return a field of the stored config, None where the run lacks it: it is older than the field, or damaged."""
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
        """`done`, `running` where a process trains in the directory, or `unfinished`."""
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
        """Return the values of `name` by step, those that are defined."""
        found = {row["step"]: row.get(name) for row in self.rows}
        return {step: value for step, value in found.items() if is_number(value)}

    def last(self, name: str) -> float | None:
        """Return the newest value of `name`, None before the first."""
        return next(reversed(self.values(name).values()), None)

    def best(self, name: str) -> tuple[int, float] | None:
        """Return the step of the best value of `name`, by its direction, and the value. None before the first."""
        values = self.values(name)
        better = min if is_smaller_better(name) else max
        return better(values.items(), key=lambda item: item[1], default=None)

    def best_value(self, name: str) -> float | None:
        """Return the best value of `name`, None before the first."""
        found = self.best(name)
        return found and found[1]

    @functools.cached_property
    def names(self) -> list[str]:
        """The names of the run's numbers, in the order in which they come up."""
        names = dict.fromkeys(name for row in self.rows for name, value in row.items() if is_number(value))
        return [name for name in names if name != "step"]

    @property
    def hours(self) -> float | None:
        """How long the run has trained, over all of its sessions, until its newest checkpoint. None where nothing says so."""
        seconds = measure_seconds(self.sessions) if self.sessions else None
        return None if seconds is None else seconds / 3600

    @property
    def device_hours(self) -> float | None:
        """The hours times the devices, session by session. Members that share devices have equal parts of them."""
        parts = [dataclasses.replace(self, sessions=[own]).hours for own in self.sessions]
        counts = [count_devices(own) / _count(own, "runs_on_devices", 1) for own in self.sessions]
        if not parts or None in parts:
            return None
        return sum(hours * count for hours, count in zip(parts, counts, strict=True))

    @property
    def images_per_second(self) -> float | None:
        """The training images a second of the newest session that has measured them."""
        found = (own.get("images_per_second") for own in reversed(self.sessions))
        return next((rate for rate in found if is_number(rate)), None)

    @property
    def training_flops(self) -> float | None:
        """The floating point operations of all steps until the last row, over all devices. None where XLA does not count."""
        own = next((own for own in reversed(self.sessions) if is_number(own.get("flops_per_step"))), None)
        return None if own is None else own["flops_per_step"] * count_devices(own) * self.step


def count_devices(session: dict) -> int:
    """Return how many devices a session's steps ran on."""
    devices = session.get("devices")
    return _count(session, "devices_of_run", _count(devices if isinstance(devices, dict) else {}, "count", 1))


def _count(facts: dict, name: str, default: int) -> int:
    value = facts.get(name)
    return value if type(value) is int and value > 0 else default


def is_smaller_better(name: str) -> bool:
    """Return whether less of `name` is better: of errors, losses, times, and objects that training does without."""
    _, _, rest = name.partition("/")
    return rest in ERRORS or rest in LOSSES or rest in ("input_wait", "evaluation", "boxes_lost", "unmatched")


def find_runs(places: Sequence[str]) -> list[Run]:
    """Read the runs in `places`, each a run's directory or a folder of runs: a sweep's, or that of members.

    Their names are those of their directories, with as many folders before as tell them apart. A run that links lead to
    twice is one. Raise UserError where a place holds no run, or cannot be read.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    for place in places:
        workdir = expand_user(place).absolute()
        try:
            own = list(_find(workdir))
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read: {error.strerror}; make it readable, or name the others"
            ) from None
        if not own:
            reason = "holds no run, nor does a folder in it" if workdir.is_dir() else "is not a folder"
            raise UserError(f"{place} {reason}; give the --workdir of a run, or of a sweep")
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
    """Return whether a folder holds a config. Raise OSError for one that may not be looked into: it may hold a run."""
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
    """Read a run. What is missing or damaged is left out, and named in its `problems`."""
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
        problems.append(f"config.json: {field}={config.pop(field)!r} is not valid, and left out")
    sessions = evidence.get("sessions", [])
    sessions = [own for own in sessions if isinstance(own, dict)] if isinstance(sessions, list) else []
    config |= _describe_plans(sessions)
    return Run(name, workdir, config, _read_rows(workdir / "metrics.jsonl", problems), sessions, problems)


def _shorten(error: UserError, workdir: pathlib.Path) -> str:
    """Return the error without the run's directory, whose name stands before it."""
    return str(error).replace(f"{workdir}{os.sep}", "")


def _describe_plans(sessions: list[dict]) -> Flat:
    """Return `train.plans` for a run that went on by the rule of resumption.py: it is not a run planned so from its start."""
    plans = sessions[-1].get("plans") if sessions else None
    plans = [plan for plan in plans if isinstance(plan, dict)] if isinstance(plans, list) else []
    if all(plan.get("exact") for plan in plans):
        return {}
    return {"train.plans": ", then ".join(str(plan.get("steps")) for plan in plans)}


def _read_rows(path: pathlib.Path, problems: list[str]) -> list[dict]:
    """Read the whole rows of a file that may still grow. Damaged ones are passed over and counted."""
    try:
        lines = read_bytes(path, RECORDS).split(b"\n")[:-1]
    except FileNotFoundError:
        problems.append(f"{path.name} cannot be read: {os.strerror(errno.ENOENT)}")
        return []
    except UserError as error:
        problems.append(_shorten(error, path.parent))
        return []
    with contextlib.suppress(UserError):  # at once, for names are then kept once and not in each row
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
        problems.append(f"{path.name}: {damaged} damaged lines are passed over")
    return rows


def is_number(value: Any) -> bool:
    """Return whether a value of a row or a session is a defined number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
