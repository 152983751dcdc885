"""A run's directory: whose it is, which config it holds, and that only one process at a time trains in it."""

import contextlib
import fcntl
import json
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from errors import UserError
from experiments.run.follower import run_id
from files import write_atomically


def resolve(config: ConfigDict) -> str:
    """The config as it is stored: JSON, sorted, every field with its value."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Holds `workdir` for training with `config`, new or resumed.

    Raises UserError, and changes nothing, where it belongs to another config, or another process is training in it.
    """
    stored = workdir / "config.json"
    if stored.exists():
        check_same(workdir, config)
    elif any((workdir / name).exists() for name in ("metrics.jsonl", "checkpoints")):
        raise UserError(f"{workdir} holds a run without its config.json; choose another --workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a")  # noqa: SIM115 - closed by the `with` below
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written ({error.strerror}); choose another") from None
    with lock:
        try:
            # The kernel drops the lock with the process, however that ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir}: another process is training here; wait for it or choose another --workdir"
            ) from None
        if not stored.exists():
            write_atomically(stored, resolve(config).encode())
        yield


def wandb_id(workdir: pathlib.Path, config: ConfigDict) -> str:
    """The W&B run that this run is, also after a resume."""
    return run_id(resolve(config), workdir.name)


def check_same(workdir: pathlib.Path, config: ConfigDict, sections: tuple[str, ...] = ()) -> None:
    """Raises UserError unless the run's config equals `config` (in the given top-level fields only, if any are given)."""
    saved = _flatten(json.loads(resolve(read_config(workdir))))
    given = _flatten(json.loads(resolve(config)))
    differing = [
        name
        for name in sorted(saved.keys() | given.keys())
        if saved.get(name) != given.get(name) and (not sections or name.split(".")[0] in sections)
    ]
    if differing:
        name = differing[0]
        others = f" (and {len(differing) - 1} more fields)" if differing[1:] else ""
        raise UserError(
            f"{workdir} holds a run with another config: {name} is {saved.get(name)!r} there, {given.get(name)!r} now"
            f"{others}; use that config, or choose another --workdir"
        )


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config a run was started with. Raises UserError where there is none."""
    path = workdir / "config.json"
    try:
        return ConfigDict(_tuples(json.loads(path.read_text())))
    except FileNotFoundError:
        raise UserError(
            f"{workdir} holds no run (no config.json); train first with --mode=train, or name its --workdir"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it from a backup or choose another --workdir") from None


def _tuples(value):
    """JSON knows lists only; configs hold tuples."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _flatten(value, prefix: str = "") -> dict:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in _flatten(item, f"{prefix}.{key}".lstrip(".")).items()
    }
