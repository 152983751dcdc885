"""Checkpoints that can be trusted after a kill, a full disk or a damaged file.

`checkpoints/last/STEP` are the newest, `checkpoints/best/STEP` is the best by the config's metric. Orbax writes each one
under a temporary name and renames it when it is complete. Notes next to the arrays contain the SHA-256 of the arrays and of
the notes. A checkpoint that is damaged later is thus detected, moved aside and replaced by the one before.

`python -m experiments.run.checkpoints WORKDIR` prints the last step and the SHA-256 of its arrays, or with `--config` the config.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all, because the imports take seconds

import argparse
import contextlib
import pathlib
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from errors import UserError, warn
from experiments.run.checksums import Arrays, describe, digest, is_here
from experiments.run.config_file import resolve
from experiments.run.directory import lead
from experiments.run.storage_errors import explain, silence_repetitions
from files import digest_json
from input_pipeline.decoding import WHITE

KINDS = ("last", "best")


class Checkpoints:
    """The checkpoints of one run. `state` is a tree of arrays. `notes` is JSON with everything else that a resume needs."""

    def __init__(self, workdir: str | pathlib.Path, keep: int = 1, read_only: bool = False):
        silence_repetitions()
        self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
        self.read_only = read_only
        self.longest_save = 0.0  # seconds, from the call of `save` to the complete file
        self._began = 0.0
        self._read_back: set[str] = set()  # kinds whose first checkpoint in this process was read back
        self._most = {"last": keep, "best": 1}
        try:
            here = [kind for kind in KINDS if not read_only or (self.folder / kind).is_dir()]
            self._managers = {kind: self._make_manager(kind) for kind in here}
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be used ({error.strerror}); move the run, or the file in its place"
            ) from error

    def _make_manager(self, kind: str) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.folder / kind,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if self.read_only else self._most[kind],
                create=not self.read_only,
                read_only=self.read_only,
                cleanup_tmp_directories=not self.read_only,
                lightweight_initialize=True,  # damaged metadata then affects only its own checkpoint
                async_options=None if self.read_only else ocp.AsyncOptions(post_finalization_callback=self._note_time),
            ),
        )

    def steps(self, kind: str = "last") -> list[int]:
        """Return the steps of the complete checkpoints on disk, oldest first."""
        return sorted(self._managers[kind].all_steps()) if kind in self._managers else []

    def save(self, step: int, state: Any, notes: dict, kind: str = "last") -> None:
        """Start to write a checkpoint, and return when the arrays are copied. Raises UserError if an earlier write failed.

        Nothing older is removed before the new one is complete. Earlier saves complete first, so a `last` implies that the `best`
        of its step is complete. The first one of each kind is read back, so that an unreadable one is found at once.
        """
        self.wait()
        if step in self.steps(kind):
            return
        self._began = time.monotonic()
        try:
            arrays = {name: _owned(value) for name, value in flatten(state).items()}
            self._check_room(sum(value.nbytes for value in arrays.values()))
            notes = dict(notes, step=step, shapes={name: list(value.shape) for name, value in arrays.items()})
            notes["dtypes"] = {name: str(value.dtype) for name, value in arrays.items()}
            notes |= describe(arrays)
            notes = {"notes": notes, "sha256": digest_json(notes)}
            args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(notes))
            self._managers[kind].save(step, args=args, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._write_failed(step, kind, error) from error
        if kind not in self._read_back:
            self.wait()
            self._check_readable(step, kind)
            self._read_back.add(kind)

    def wait(self) -> None:
        """Block until all saves are on disk. Raises UserError if a write failed."""
        for kind, manager in self._managers.items():
            try:
                manager.wait_until_finished()
                manager.check_for_errors()
            except (OSError, ValueError, RuntimeError) as error:
                raise self._write_failed(None, kind, error) from error

    def restore(self, like: Any, kind: str = "last") -> tuple[Any, dict] | None:
        """Return the newest usable checkpoint with the shapes and shardings of `like`, a tree of arrays, and its notes.

        If a checkpoint cannot be read, or its SHA-256 differs, the one before is restored. The damaged one is then moved to
        `checkpoints/damaged` with a warning. Returns None if there is no checkpoint. Raises UserError if none is usable.
        """
        steps, damaged = self.steps(kind), {}
        names = flatten(like)
        abstract = {name: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding) for name, v in names.items()}
        for step in reversed(steps):
            try:
                notes = self._read_notes(step, kind)
                self._check_fits(step, kind, notes["shapes"], abstract)
                arrays = self._read_arrays(step, kind, notes, abstract)
            except UserError:
                raise
            except Exception as error:  # orbax and tensorstore raise errors of any type for a damaged file
                damaged[step] = error
                continue
            for later, error in damaged.items():
                self._set_aside(later, kind, error)
            leaves = [arrays[name] for name in names]
            return jax.tree.unflatten(jax.tree.structure(like), leaves), notes
        if steps:
            raise UserError(
                f"{self.folder / kind}: none of the checkpoints {steps} can be read ({explain(damaged[steps[-1]])}); restore one "
                "from a backup, or move the run away to start again"
            )
        return None

    def read(self, kind: str = "last") -> tuple[dict[str, Any], dict]:
        """Return the newest usable checkpoint as arrays by path on the host, and its notes. Raises UserError without one."""
        steps, damaged = self.steps(kind), {}
        for step in reversed(steps):
            try:
                found = self._read(step, kind)
            except Exception as error:
                damaged[step] = error
                continue
            for later, error in damaged.items():
                place = self.folder / kind / str(later)
                warn(f"checkpoint {place} cannot be used ({explain(error)}); the one before is used")
            return found
        if kind in self._managers:
            self._look_again(kind)
            if self.steps(kind) != steps:  # the run is still training, and has replaced them
                return self.read(kind)
        other = next((name for name in KINDS if name != kind and self._has_usable(name)), None)
        remedy = "restore one from a backup" if steps else "train first, or give another --workdir"
        remedy = f"use --checkpoint={other}, which is usable" if other else remedy
        reason = f" ({explain(damaged[steps[-1]])})" if steps else ""
        raise UserError(f"{self.folder / kind} contains no usable checkpoint{reason}; {remedy}")

    def read_notes(self) -> dict | None:
        """Return the newest readable notes, without reading arrays. None if there are none."""
        for kind in KINDS:
            for step in reversed(self.steps(kind)):
                with contextlib.suppress(Exception):  # orbax raises errors of any type for a damaged file
                    return self._read_notes(step, kind)
        return None

    def close(self) -> None:
        """Wait for the writers, and close the Orbax managers. A manager that is not closed loses its last save."""
        self.wait()
        for manager in self._managers.values():
            manager.close()

    def _note_time(self) -> None:
        self.longest_save = max(self.longest_save, time.monotonic() - self._began)

    def _look_again(self, kind: str) -> None:
        """Read the folder again, after this or another process has moved a checkpoint."""
        self._managers[kind].close()
        self._managers[kind] = self._make_manager(kind)

    def _read(self, step: int, kind: str) -> tuple[dict[str, Any], dict]:
        notes = self._read_notes(step, kind)
        return self._read_arrays(step, kind, notes, None), notes

    def _has_usable(self, kind: str) -> bool:
        for step in reversed(self.steps(kind)):
            with contextlib.suppress(Exception):
                self._read(step, kind)
                return True
        return False

    def _check_readable(self, step: int, kind: str) -> None:
        try:
            self._read(step, kind)
        except Exception as error:
            raise UserError(
                f"{self.folder / kind / str(step)} was written but cannot be read back ({explain(error)}), so the run could not "
                "resume from it; check the disk, or choose a --workdir on another disk"
            ) from error

    def _read_notes(self, step: int, kind: str) -> dict:
        items = ocp.args.Composite(notes=ocp.args.JsonRestore())
        stored = self._managers[kind].restore(step, args=items)["notes"]
        if "shapes" in stored:  # from an older run, whose notes have no checksum
            notes = stored
        elif digest_json(notes := stored["notes"]) != stored["sha256"]:
            raise ValueError("its notes differ from the saved ones (SHA-256 differs)")
        if notes["step"] != step or notes.get("loader", step) != step:
            raise ValueError(f"its notes belong to step {notes['step']} and batch {notes.get('loader')}")
        return notes

    def _read_arrays(self, step: int, kind: str, notes: dict, abstract: Arrays | None) -> dict[str, Any]:
        """Read the arrays onto the devices in the layout of `abstract`, or onto the host without it."""
        like = _describe_on_host(notes) if abstract is None else abstract
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        arrays = self._managers[kind].restore(step, args=items)["state"]
        if notes["sha256"] and abstract is not None and not all(map(is_here, arrays.values())):
            self._read_arrays(step, kind, notes, None)  # no process can compute the SHA-256 from its own parts
        elif any(describe(arrays, notes)[name] != notes[name] for name in ("sha256", "sums") if notes.get(name)):
            raise ValueError("its arrays differ from the saved ones (SHA-256 differs)")
        return arrays

    def _check_fits(self, step: int, kind: str, shapes: Mapping[str, list[int]], abstract: Arrays) -> None:
        """Raise UserError if a checkpoint comes from another model, which is not damage."""
        wanted = {name: list(value.shape) for name, value in abstract.items()}
        differing = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f"{self.folder / kind / str(step)} comes from another model: {len(differing)} arrays differ, the first is {name} "
                f"(saved {shapes.get(name)}, config {wanted.get(name)}); use the config of that run, or another --workdir"
            )

    def _check_room(self, size: int) -> None:
        """Raise OSError if the disk has less than `size` bytes left, before a partial file is written."""
        free = lead(lambda: shutil.disk_usage(self.folder).free)
        if free < size:
            raise OSError(f"it needs {size / 2**20:.1f} MiB and the disk has {free / 2**20:.1f} MiB left")

    def _set_aside(self, step: int, kind: str, error: Exception) -> None:
        place, target = self.folder / kind / str(step), self.folder / "damaged" / f"{kind}-{step}"
        warn(
            f"checkpoint {place} cannot be used ({explain(error)}); it was moved to {target}, and the one before is used"
        )

        def move() -> None:
            try:
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(exist_ok=True)
                place.rename(target)
            except OSError as failure:
                raise UserError(
                    f"{place} cannot be moved to {target} ({failure.strerror}); move it yourself"
                ) from failure

        lead(move)
        self._look_again(kind)

    def _write_failed(self, step: int | None, kind: str, error: Exception) -> UserError:
        what = "a checkpoint" if step is None else f"checkpoint {step}"
        earlier = _list_steps(self.folder / kind)  # not the manager's, which has dropped those to be replaced
        rest = f"the earlier checkpoints {earlier} are complete" if earlier else "the run has no earlier checkpoint"
        return UserError(
            f"{self.folder / kind}: {what} could not be written ({explain(error)}); {rest}; make room and start the same "
            "command again"
        )


def exists(workdir: pathlib.Path) -> bool:
    """Return whether a run has a checkpoint to resume from."""
    return bool(_list_steps(workdir / "checkpoints" / "last"))


def _list_steps(folder: pathlib.Path) -> list[int]:
    """Return the steps of the complete checkpoints in a folder. An incomplete one has a temporary name."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in paths if path.name.isdecimal() and path.is_dir())


def read_white(workdir: pathlib.Path) -> int:
    """Return the value that the run in `workdir` reads as white in 16-bit images. Older runs did not store it."""
    notes = Checkpoints(workdir, read_only=True).read_notes() or {}
    return notes.get("white_level", WHITE)


def flatten(state: Any) -> dict[str, Any]:
    """Return the arrays of a tree by path, with the parts of a path joined by dots."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _describe_on_host(notes: Mapping) -> dict[str, np.ndarray] | None:
    """Return templates from which Orbax reads a checkpoint onto any host. None for older notes, which have no dtypes."""
    if "dtypes" not in notes:
        return None
    return {name: np.empty(shape, np.dtype(notes["dtypes"][name])) for name, shape in notes["shapes"].items()}


def _owned(value: jax.Array) -> Any:
    """Return a copy, which the writer's thread can read after the step has donated its buffers."""
    return np.array(value) if is_here(value) else value.copy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Print a checkpoint's step and the SHA-256 of all its state arrays.")
    parser.add_argument("workdir")
    parser.add_argument("--checkpoint", choices=KINDS, default="last")
    parser.add_argument("--config", action="store_true", help="print the run's config instead, to restore config.json")
    flags = parser.parse_args()
    try:
        arrays, notes = Checkpoints(flags.workdir, read_only=True).read(flags.checkpoint)
    except UserError as error:
        sys.exit(f"error: {error}")
    if not flags.config:
        print(notes["step"], digest(arrays))
    elif "config" in notes:
        print(resolve(ConfigDict(notes["config"])), end="")
    else:
        sys.exit(
            f"error: the run in {flags.workdir} is older than this option: its checkpoints do not contain the config"
        )


if __name__ == "__main__":
    main()
