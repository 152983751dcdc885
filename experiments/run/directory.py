"""The run directory, with a lock that lets one job at a time train in it.

Process 0 reads and writes every file except checkpoints. The other processes wait for it in `lead`, which sends them the
result. All processes write checkpoints, through Orbax, and need a shared file system for them.
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
    """Return whether this process writes the run directory."""
    return jax.process_index() == 0


def lead(work: Callable[[], Any]) -> Any:
    """Call `work` in process 0 alone, and return its result in every process. All processes must call this.

    With more than one process the result passes through JSON. An error of `work` is raised in process 0, and as a UserError
    in the others, so that none waits for a process that has failed.
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
    """Raise UserError if `workdir` contains a run that `config` cannot resume. Changes nothing."""
    lead(lambda: _check_resumable(workdir, config))


@contextlib.contextmanager
def claim(workdir: pathlib.Path, config: ConfigDict) -> Iterator[None]:
    """Lock `workdir` for training with `config`, for a new or a resumed run.

    Raises UserError, and changes nothing, if it belongs to another config or another job is training in it.
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
            # The kernel releases the lock when the process ends, however it ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {workdir}; wait for it, or choose another --workdir"
            ) from None
        if config.members == 1 and not (workdir / "wandb_id").exists():  # with members, each member is a W&B run
            write_atomically(workdir / "wandb_id", f"{_choose_wandb_id(workdir)}\n".encode())
        if not (workdir / "config.json").exists():
            content = resolve(config).encode()
            parse_json(content, "the config", remedy="give it smaller values")  # a resume must be able to read it
            write_atomically(workdir / "config.json", content)
        yield


def adopt(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Store the fields that a resume changes in config.json. Call it after all checks of the resume have passed."""
    lead(lambda: update(workdir, config))


def keep_wandb_id(workdir: pathlib.Path, known: str | None) -> str:
    """Return the W&B id of the run.

    `known` is the id in the run's checkpoint. If the file of the id was lost or changed, it is written again.
    """

    def keep() -> str:
        place = workdir / "wandb_id"
        stored = ""
        with contextlib.suppress(UserError):
            stored = read_text(place).strip()
        if known is None or stored == known:
            return stored
        write_atomically(place, f"{known}\n".encode())
        warn(f"{place} was lost or changed; it is written again from the checkpoint, with {known}")
        return known

    return lead(keep)


def _check_resumable(workdir: pathlib.Path, config: ConfigDict) -> None:
    if (workdir / "config.json").exists():
        check_same(workdir, config)
    elif any((workdir / name).exists() for name in ("metrics.jsonl", "checkpoints")):
        raise UserError(f"{workdir} contains a run without its config.json; {restore_config(workdir)}")


def _choose_wandb_id(workdir: pathlib.Path) -> str:
    """Return the id of a W&B sweep agent or of a run that older code started, or else a new id."""
    stored = workdir / "config.json"
    if stored.exists():
        return hash_config(read_text(stored), workdir.name)
    return os.environ["WANDB_RUN_ID"] if "WANDB_SWEEP_ID" in os.environ else secrets.token_hex(8)


def hash_config(config_json: str, workdir_name: str) -> str:
    """Return the W&B id, 16 hexadecimal digits, of a run that was started before ids were stored.

    The id does not depend on the layout of the JSON text.
    """
    config = json.dumps(json.loads(config_json), sort_keys=True)
    return hashlib.sha256(json.dumps([config, workdir_name]).encode()).hexdigest()[:16]
