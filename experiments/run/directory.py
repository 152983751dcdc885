"""A run's directory: who writes it, whose it is, and that only one job at a time trains in it.

Process 0 writes; the others wait for it through `lead`. Checkpoints alone are written by all processes, through Orbax, and
need a file system that all of them share. Everything else is read by process 0 too, and sent to the others.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from errors import UserError, warn
from experiments.run.config_file import check_same, resolve, restore_config, update
from experiments.run.sharding import gather_text
from files import open_lock, parse_json, read_text, write_atomically


def writes() -> bool:
    """Returns whether this process writes the run directory."""
    return jax.process_index() == 0


def lead(work: Callable[[], Any]) -> Any:
    """Calls `work` in process 0 alone and returns its result in every process; all of them must come here.

    With more than one process the result goes through JSON. What `work` raises in process 0 is raised there, and as a
    UserError in the others: none of them waits for a process that has failed.
    """
    if jax.process_count() == 1:
        return work()
    failure, said = None, {}
    if writes():
        try:
            said = {"result": work()}
        except Exception as error:
            failure, said = error, {"failure": str(error)}
    said = json.loads(gather_text(json.dumps(said))[0])
    if failure is not None:
        raise failure
    if "failure" in said:
        raise UserError(said["failure"])
    return said["result"]


def check_resumable(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Raises UserError where `workdir` holds a run that `config` cannot resume. Changes nothing."""
    lead(lambda: _check_resumable(workdir, config))


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Holds `workdir` for training with `config`, new or resumed.

    Raises UserError, and changes nothing, where it belongs to another config, or another job is training in it.
    """
    with contextlib.ExitStack() as held:
        lead(lambda: held.enter_context(_claim(workdir, config)))
        yield


@contextlib.contextmanager
def _claim(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    _check_resumable(workdir, config)
    try:
        lock = open_lock(workdir / ".lock")
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
        if config.members == 1 and not (workdir / "wandb_id").exists():  # of members, each is a run of W&B's
            write_atomically(workdir / "wandb_id", f"{_choose_wandb_id(workdir)}\n".encode())
        if not (workdir / "config.json").exists():
            content = resolve(config).encode()
            parse_json(content, "the config", remedy="give it smaller values")  # a resume must be able to read it
            write_atomically(workdir / "config.json", content)
        yield


def adopt(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Stores in config.json what a resume changes in the run's config. Call it once nothing stands against the resume."""
    lead(lambda: update(workdir, config))


def keep_wandb_id(workdir: pathlib.Path, known: str | None) -> str:
    """Returns the W&B id of the run, which is `known` from its checkpoint: a file that was lost or changed is written anew."""

    def keep() -> str:
        place = workdir / "wandb_id"
        stored = ""
        with contextlib.suppress(UserError):
            stored = read_text(place).strip()
        if known is None or stored == known:
            return stored
        write_atomically(place, f"{known}\n".encode())
        warn(f"{place} was lost or changed, and is written anew from the checkpoint: {known}")
        return known

    return lead(keep)


def _check_resumable(workdir: pathlib.Path, config: ConfigDict) -> None:
    if (workdir / "config.json").exists():
        check_same(workdir, config)
    elif any((workdir / name).exists() for name in ("metrics.jsonl", "checkpoints")):
        raise UserError(f"{workdir} holds a run without its config.json; {restore_config(workdir)}")


def _choose_wandb_id(workdir: pathlib.Path) -> str:
    """Returns a new id for a new run, or the one that W&B knows it by: from its agent, or from older code that started it."""
    stored = workdir / "config.json"
    if stored.exists():
        return hash_config(read_text(stored), workdir.name)
    return os.environ["WANDB_RUN_ID"] if "WANDB_SWEEP_ID" in os.environ else secrets.token_hex(8)


def hash_config(config_json: str, workdir_name: str) -> str:
    """Returns the W&B id of a run started before ids were stored, 16 hexadecimal digits, regardless of the JSON's layout."""
    config = json.dumps(json.loads(config_json), sort_keys=True)
    return hashlib.sha256(json.dumps([config, workdir_name]).encode()).hexdigest()[:16]
