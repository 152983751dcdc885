"""The plan of a sweep, with the directory of each run and the arguments of main.py.

A run is identified by its config, without `wandb` and other fields that do not change results. If a directory in the sweep's
folder holds a run with that config, it is the directory of the run, whatever its name. Otherwise the run gets a new directory.
So a change of the sweep file or of a base config adds runs.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from configs.common import Wandb
from errors import UserError, warn
from experiments.run import resolution
from experiments.run.config_file import FREE
from experiments.run.metrics_file import plain
from experiments.sweep.definition import Run, load
from experiments.sweep.naming import find_varied, label
from fields import defaults

DIGITS = 6  # of the hash in a directory's name
LONGEST_TAG, LONGEST_NAME = 64, 128  # characters that W&B accepts

Flat = dict[str, Any]  # the fields of a config by dotted name


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep, ready to start."""

    label: str
    workdir: pathlib.Path
    arguments: tuple[str, ...]  # of main.py
    start: "Job | None"  # the run that it starts from, which must be done first
    varied: Mapping[str, Any]  # the fields in which the runs of the sweep differ
    config: Flat = dataclasses.field(repr=False)  # the whole config
    smaller_is_better: bool = False  # for the score in config.train.best


def make_plan(
    config: str,
    overrides: Mapping[str, str],
    workdir: pathlib.Path,
    data_dir: str | None = None,
    resolve: Callable[[dict], dict] = resolution.ask,
) -> list[Job]:
    """Return the jobs of the sweep in `FILE:VARIANT`, each after the one that it starts from.

    Nothing is written. `overrides` are fields that the command line sets for every run, as text. Raise UserError, with the
    names of run and field, if a config is invalid or two runs are the same.
    """
    return make_jobs(load(config, overrides), overrides, workdir, data_dir, resolve)


def make_jobs(
    runs: Sequence[Run],
    overrides: Mapping[str, str],
    workdir: pathlib.Path,
    data_dir: str | None = None,
    resolve: Callable[[dict], dict] = resolution.ask,
    fields: Sequence[str] | None = None,
) -> list[Job]:
    """Return the jobs of runs as `make_plan` does. The names have the values of `fields`, by default the varied fields."""
    if (workdir / "config.json").exists():
        raise UserError(f"--workdir={workdir} is the directory of one run; choose another folder for the sweep")
    labels = label(runs) if fields is None else [label([run])[0] for run in runs]
    texts = [{**_write(run.fields), **overrides} for run in runs]
    places = sorted(str(path.parent) for path in workdir.glob("*/config.json"))
    asked = [{"config": run.config, "fields": _flags(own)} for run, own in zip(runs, texts, strict=True)]
    answer = resolve({"runs": asked, "stored": places, "data_dir": data_dir})
    resolved = [_check(run, name, own) for run, name, own in zip(runs, labels, answer["runs"], strict=True)]
    stored = {pathlib.Path(place): own for place, own in answer["stored"].items() if own is not None}
    known: dict[str, list[pathlib.Path]] = {}
    for place, own in stored.items():
        known.setdefault(identify(own, workdir), []).append(place)
    varied = find_varied(runs) if fields is None else fields
    settings = label(runs, ignore=("seed.init", "seed.data"))
    seeds, several = Counter(settings), len({run.config for run in runs}) > 1
    jobs: list[Job] = []
    taken = set(stored)
    identities: dict[str, str] = {}
    for number, (run, name) in enumerate(zip(runs, labels, strict=True)):
        start = None if run.start is None else jobs[run.start]
        own = resolved[number] | ({"init_from": str(start.workdir)} if start else {})
        identity = identify(own, workdir)
        if identity in identities:
            raise UserError(
                f"{run.config}: the runs {identities[identity]} and {name} have the same config; remove one"
            )
        identities[identity] = name
        place = _find_place(workdir, name, identity, known, taken)
        taken.add(place)
        if identity in known:
            kept = stored[place]
            settled = own | {f: kept[f] for f in kept if f.startswith("wandb.") or f == "init_from"}
            _warn_of_kept(place, own, kept, overrides)
        else:
            setting = settings[number]
            settled = own | _present(own, workdir.name, name, setting if seeds[setting] > 1 else "")
        added = {field: value for field, value in settled.items() if value != resolved[number].get(field)}
        arguments = [f"--config={run.config}", f"--workdir={place}", *_flags(texts[number] | _write(added))]
        arguments += [f"--tfds_data_dir={data_dir}"] if data_dir else []
        shown = {"config": run.config} if several else {}
        shown |= {field: run.fields[field] for field in varied if field in run.fields}
        smaller = answer["runs"][number]["smaller_is_better"]
        jobs.append(Job(name, place, tuple(arguments), start, shown, settled, smaller))
    return jobs


def _write(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of fields as text for the command line."""
    return {field: value if isinstance(value, str) else repr(_tuples(value)) for field, value in fields.items()}


def _flags(texts: Mapping[str, str]) -> list[str]:
    return [f"--config.{field}={text}" for field, text in texts.items()]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _check(run: Run, name: str, answer: Mapping) -> Flat:
    """Return the whole config of a run. Raise UserError if it is invalid or its values are not those of the sweep."""
    if "error" in answer:
        raise UserError(f"run {name}: {answer['error']}")
    for field, value in run.fields.items():
        if answer["fields"].get(field) != plain(value):
            raise UserError(
                f"run {name}: config.{field}={value!r} would become {answer['fields'].get(field)!r}; "
                "give a value of the field's type"
            )
    if answer["fields"]["members"] > 1:
        raise UserError(
            f"run {name}: config.members={answer['fields']['members']}: a sweep needs runs with one member; set 1 and sweep "
            "over seed.init"
        )
    return answer["fields"]


def identify(config: Flat, workdir: pathlib.Path) -> str:
    """Return the identity of a run as text, equal for equal runs.

    In `init_from`, another run of this sweep is identified by the name of its directory.
    """
    own = {field: value for field, value in config.items() if not field.startswith("wandb.") and field not in FREE}
    start = pathlib.Path(own["init_from"])
    if own["init_from"] and (start.parent == workdir or (workdir / start.name).is_dir()):
        own["init_from"] = start.name
    return json.dumps(own, sort_keys=True)


def _find_place(
    workdir: pathlib.Path,
    name: str,
    identity: str,
    known: Mapping[str, Sequence[pathlib.Path]],
    taken: Collection[pathlib.Path],
) -> pathlib.Path:
    """Return the directory of a known run, whatever its name, or a new one that is not `taken` by another run."""
    digits = hashlib.sha256(identity.encode()).hexdigest()
    place = workdir / f"{name}-{digits[:DIGITS]}"
    if identity in known:
        return place if place in known[identity] else known[identity][0]  # others are copies
    return place if place not in taken else workdir / f"{name}-{digits}"


def _present(config: Flat, sweep: str, name: str, setting: str) -> Flat:
    """Return the fields of config.wandb that group the runs in the dashboard, without those that the config sets.

    The group is the sweep. If a setting has several seeds, it is the job type: grouped by job type, W&B draws the mean over
    seeds.
    """
    if config["wandb.mode"] == "disabled":
        return {}
    tags = [word[:LONGEST_TAG] for word in name.split(",")]
    shown = {"group": sweep, "name": name, "job_type": setting, "tags": tags}
    shown = {f"wandb.{field}": value[:LONGEST_NAME] for field, value in shown.items()}
    neutral = {f"wandb.{field}": plain(value) for field, value in defaults(Wandb).items()}
    return {field: value for field, value in shown.items() if value and config[field] == neutral[field]}


def _warn_of_kept(place: pathlib.Path, own: Flat, kept: Flat, overrides: Mapping[str, str]) -> None:
    for field in overrides:
        if field.startswith("wandb.") and own[field] != kept[field]:
            warn(
                f"{place.name} keeps {field}={kept[field]!r} from its first start; {own[field]!r} applies to new runs only"
            )


def list_varied(jobs: Sequence[Job]) -> list[str]:
    """Return the fields in which the runs differ, with `config` if they have several configs."""
    return list(dict.fromkeys(field for job in jobs for field in job.varied))
