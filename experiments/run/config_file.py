"""Read, compare and update config.json, the config of a run. Imports no jax."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from errors import UserError
from files import read_json, write_atomically

# No result depends on these fields. A run may resume with other values, and config.json then stores them.
FREE = (
    *("train.max_minutes", "train.log_every", "train.checkpoint_every", "train.keep"),
    *("eval.pictures", "eval.picture_score", "data.num_threads", "data.prefetch"),
    *("wandb.mode", "wandb.project", "wandb.entity", "wandb.name", "wandb.group", "wandb.tags", "wandb.job_type"),
)
# These fields may change too when a run resumes, under the conditions of experiments/run/resumption.py.
RESUMABLE = (*FREE, "train.steps", "data.folder.root", "data.proposals.folder")


def resolve(config: ConfigDict) -> str:
    """Return the config as sorted JSON text with every field, the content of config.json."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Return the config as values of JSON, where tuples are lists."""
    return json.loads(resolve(config))


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """Return the config of the run in `workdir`, completed with the fields that are newer than the run.

    Raises UserError if there is no run.
    """
    path = workdir / "config.json"
    try:
        stored = read_json(path, remedy=restore_config(workdir))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} contains no run (no config.json); train first with --mode=train, or give another --workdir"
        ) from None
    return _complete(_tuples(stored), path)


def restore_config(workdir: pathlib.Path) -> str:
    """Return the remedy for a lost or changed config.json. The checkpoints store the config too."""
    return f"restore it from the output of python -m experiments.run.checkpoints {workdir} --config"


def check_same(workdir: pathlib.Path, config: ConfigDict, sections: tuple[str, ...] = ()) -> None:
    """Raise UserError unless the run's config equals `config`. The fields of RESUMABLE may differ.

    If `sections` are given, only these top-level fields are compared.
    """
    saved, given = _compare(workdir, config)
    differing = [name for name in _differing(saved, given) if not sections or name.split(".")[0] in sections]
    differing = [name for name in differing if name not in RESUMABLE]
    if differing:
        name = differing[0]
        others = f" (and {len(differing) - 1} more fields)" if differing[1:] else ""
        raise UserError(
            f"{workdir} contains a run with another config: {name} is {saved.get(name)!r} there, {given.get(name)!r} now"
            f"{others}; use that config, or choose another --workdir. If config.json was changed, {restore_config(workdir)}"
        )


def compare_trained(workdir: pathlib.Path, trained: Mapping, step: int, config: ConfigDict) -> dict[str, list]:
    """Return the fields that differ between a checkpoint's config `trained` and `config`, by name, as `[then, now]`.

    `step` is the checkpoint's. Raises UserError if a field has changed that may not, because config.json is then no longer
    the run's own.
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
    """Store the values of `config` for the fields of RESUMABLE. Its other fields equal those of the run."""
    saved, given = _compare(workdir, config)
    if any(saved[name] != given[name] for name in RESUMABLE):
        resumed = read_config(workdir)
        with resumed.ignore_type():  # an integer is accepted for a float
            resumed.update_from_flattened_dict({name: _tuples(given[name]) for name in RESUMABLE})
        write_atomically(workdir / "config.json", resolve(resumed).encode())


def changes(workdir: pathlib.Path, config: ConfigDict) -> dict[str, Any]:
    """Return the fields, by name, that affect results and differ from the run's config, as values of JSON."""
    saved, given = _compare(workdir, config)
    return {name: given.get(name) for name in _differing(saved, given)}


def name_changes(changed: dict[str, Any]) -> str:
    """Return a suffix for the names of files made with these changes, `-` and six digits, or "" for no changes."""
    return f"-{hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:6]}" if changed else ""


def _compare(workdir: pathlib.Path, config: ConfigDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the run and of `config`, both completed with defaults."""
    return flatten(read_config(workdir)), flatten(_complete(config.to_dict(), pathlib.Path("--config")))


def _complete(values: Any, path: pathlib.Path) -> ConfigDict:
    from experiments.run.configuration import complete  # here because it imports jax

    return complete(values, path)


def _differing(saved: dict, given: dict) -> list[str]:
    names = sorted(saved.keys() | given.keys())
    return [name for name in names if saved.get(name) != given.get(name) and name not in FREE]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Return the fields of a config by their dotted names, as values of JSON."""
    return flatten_json(to_json(config))


def flatten_json(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a stored config by their dotted names. An older run lacks newer fields."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in flatten_json(item, f"{prefix}.{key}".lstrip(".")).items()
    }


def _tuples(value):
    """Return a value of JSON with tuples in place of lists, as configs have them."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
