"""config.json: the config that a run was started with, and how another one differs from it. Imports no jax."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from errors import UserError
from files import read_json, write_atomically

# No result depends on these: a run resumes with other values, which config.json then holds.
FREE = (
    *("train.max_minutes", "train.log_every", "train.checkpoint_every", "train.keep"),
    *("eval.pictures", "eval.picture_score", "data.num_threads", "data.prefetch"),
    *("wandb.mode", "wandb.project", "wandb.entity", "wandb.name", "wandb.group", "wandb.tags", "wandb.job_type"),
)
# A resume takes other values of these too, where what they stand for is the same (experiments/run/resumption.py).
RESUMABLE = (*FREE, "train.steps", "data.folder.root", "data.proposals.folder")


def resolve(config: ConfigDict) -> str:
    """Returns the config as it is stored: JSON, sorted, every field with its value."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as config.json gives it back: tuples are lists."""
    return json.loads(resolve(config))


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """Returns the config of the run in `workdir`, with the fields that are newer than the run. Raises UserError without a run."""
    path = workdir / "config.json"
    try:
        stored = read_json(path, remedy=restore_config(workdir))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} holds no run (no config.json); train first with --mode=train, or name its --workdir"
        ) from None
    return _complete(_tuples(stored), path)


def restore_config(workdir: pathlib.Path) -> str:
    """Returns what to do about a config.json that was lost or changed: the checkpoints keep the config."""
    return f"restore it: python -m experiments.run.checkpoints {workdir} --config prints it"


def check_same(workdir: pathlib.Path, config: ConfigDict, sections: tuple[str, ...] = ()) -> None:
    """Raises UserError unless the run's config equals `config` (in the given top-level fields only, if any are given).

    The fields of RESUMABLE may differ.
    """
    saved, given = _compare(workdir, config)
    differing = [name for name in _differing(saved, given) if not sections or name.split(".")[0] in sections]
    differing = [name for name in differing if name not in RESUMABLE]
    if differing:
        name = differing[0]
        others = f" (and {len(differing) - 1} more fields)" if differing[1:] else ""
        raise UserError(
            f"{workdir} holds a run with another config: {name} is {saved.get(name)!r} there, {given.get(name)!r} now"
            f"{others}; use that config, or choose another --workdir. Where config.json was changed, {restore_config(workdir)}"
        )


def compare_trained(workdir: pathlib.Path, trained: Mapping, step: int, config: ConfigDict) -> dict[str, list]:
    """Returns the fields that `config` changes of the config `trained` that the checkpoint of `step` keeps: [then, now].

    Raises UserError for one that may not change: config.json is not the run's any more.
    """
    then, now = flatten_json(trained), flatten(config)
    changed = {name: [then[name], now[name]] for name in sorted(then.keys() & now.keys()) if then[name] != now[name]}
    for name, (before, after) in changed.items():
        if name not in RESUMABLE:
            raise UserError(
                f"{workdir / 'config.json'} was changed: {name} was {before!r} when step {step} was saved, and is {after!r} now; "
                f"{restore_config(workdir)}"
            )
    return changed


def update(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Stores the values that `config`, otherwise the run's own, has for the fields of RESUMABLE."""
    saved, given = _compare(workdir, config)
    if any(saved[name] != given[name] for name in RESUMABLE):
        resumed = read_config(workdir)
        with resumed.ignore_type():  # a whole number is a number, too
            resumed.update_from_flattened_dict({name: _tuples(given[name]) for name in RESUMABLE})
        write_atomically(workdir / "config.json", resolve(resumed).encode())


def changes(workdir: pathlib.Path, config: ConfigDict) -> dict[str, Any]:
    """Returns what `config` changes in results: the fields that differ from the run's own, by name, fit for JSON."""
    saved, given = _compare(workdir, config)
    return {name: given.get(name) for name in _differing(saved, given)}


def name_changes(changed: dict[str, Any]) -> str:
    """Returns an ending for the names of files that are made with these changes: "" for none, or `-` and six digits."""
    return f"-{hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6]}" if changed else ""


def _compare(workdir: pathlib.Path, config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the run and of `config`, both with those that an experiment may leave out."""
    return flatten(read_config(workdir)), flatten(_complete(config.to_dict(), pathlib.Path("--config")))


def _complete(values: Any, path: pathlib.Path) -> ConfigDict:
    from experiments.run.configuration import complete  # here, for it imports jax, and with it the model

    return complete(values, path)


def _differing(saved: dict, given: dict) -> list[str]:
    names = sorted(saved.keys() | given.keys())
    return [name for name in names if saved.get(name) != given.get(name) and name not in FREE]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of a config by their dotted names, fit for JSON."""
    return flatten_json(to_json(config))


def flatten_json(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a stored config by their dotted names, as they are stored: an older run lacks newer fields."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in flatten_json(item, f"{prefix}.{key}".lstrip(".")).items()
    }


def _tuples(value):
    """JSON has lists only; configs hold tuples."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
