"""Read and write metrics.jsonl, the one record of a run. W&B, dashboards and comparisons show its rows."""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from errors import UserError, warn
from files import parse_json, read_bytes, write_atomically
from limits import RECORDS


class MetricsFile:
    """The file metrics.jsonl, with one JSON object per line, `{"step": int, name: number, string or list, ...}`.

    A step has at most one line, and the steps ascend. One process writes the file. A resumed run first calls `cut`.
    """

    def __init__(self, path: Path):
        """Open `path` to append to it, and create it if missing. Raises UserError if that fails."""
        self.path = path
        lines = self._read() if os.path.lexists(path) else []  # read before opening, which would block for a pipe
        self._file = self._open()
        self._remember(lines)

    def _open(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return open(self.path, "ab", buffering=0)  # unbuffered, so that written lines outlive a kill -9
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be opened ({error.strerror}); check its permissions, or choose another --workdir"
            ) from error

    def _remember(self, lines: list[bytes]) -> None:
        self._count, self._hash = len(lines), hashlib.sha256(b"".join(lines))

    @property
    def mark(self) -> dict[str, Any]:
        """The number of lines and the SHA-256 of their bytes. A checkpoint stores it, and `cut` takes it."""
        return {"count": self._count, "sha256": self._hash.hexdigest()}

    def append(self, step: int, values: Mapping[str, object]) -> None:
        """Write one line. Values are numbers, strings, arrays or lists of them. NaN and infinities become null.

        Raises UserError if the disk is full or unavailable. The line is then absent, never partial.
        """
        row = {"step": int(step)} | {name: plain(value) for name, value in values.items()}
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            rest = line
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            raise UserError(
                f"{self.path}: step {step} cannot be written ({error.strerror}); make room and start the same command again"
            ) from error
        self._count += 1
        self._hash.update(line)

    def sync(self) -> None:
        """Flush every line to disk. Call it before a checkpoint is saved, which may only cover lines that are on disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be flushed to disk ({error.strerror}); check the disk and start the same command again"
            ) from error

    def cut(self, step: int, mark: Mapping[str, Any] | None = None, accept_lost: bool = False) -> None:
        """Drop the lines that follow those of `mark`, or without a mark the lines after `step`. The others stay unchanged.

        The new content replaces the file in one rename, so a reader sees the old file or the new one, never a part.
        Raises UserError if lines that should stay are missing, changed or damaged. With `accept_lost` this is a warning:
        the readable lines up to `step` stay, and a copy of the old file is kept under another name.
        """
        lines = self._read()
        try:
            kept = self._select(lines, step) if mark is None else self._check(lines, step, mark)
        except UserError as error:
            if not accept_lost:
                raise
            aside = self._set_aside()
            what, _, _ = str(error).partition("; ")
            warn(f"{what}; the run continues without them, and a copy of the file is kept in {aside}")
            kept = self._find_readable(lines, step)
        content = b"".join(kept)
        if len(content) != self.path.stat().st_size:
            write_atomically(self.path, content)
            self._file.close()
            self._file = self._open()
        self._remember(kept)

    def rows(self) -> Iterator[dict]:
        """Yield the row of each complete line in order. Raises UserError that names a damaged line."""
        step = -1
        for number, line in enumerate(self._read(), start=1):
            row = parse_row(self.path, number, line, after=step)
            step = row["step"]
            yield row

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> list[bytes]:
        """Return the complete lines."""
        return [line for line in io.BytesIO(read_bytes(self.path, RECORDS)) if line.endswith(b"\n")]

    def _check(self, lines: list[bytes], step: int, mark: Mapping[str, Any]) -> list[bytes]:
        """Return the lines that a checkpoint's mark covers. Later lines are not checked, because the run rewrites them."""
        kept = lines[: mark["count"]]
        if hashlib.sha256(b"".join(kept)).hexdigest() == mark["sha256"]:
            return kept
        if len(kept) < mark["count"]:
            what = f"has {len(kept)} of the {mark['count']} rows that it had when step {step} was saved"
        else:
            what = f"has other rows than when step {step} was saved"
        raise UserError(
            f"{self.path} {what}; restore it from a backup, or continue without them with --accept_lost_rows"
        )

    def _select(self, lines: list[bytes], step: int) -> list[bytes]:
        """Return the lines up to `step`. This is for older runs, whose checkpoints store no mark."""
        count = len(lines)
        while count and not self._is_readable(count, lines[count - 1], range(step + 1)):
            count -= 1
        rows = ((line, parse_row(self.path, number, line)) for number, line in enumerate(lines[:count], start=1))
        return [line for line, row in rows if row["step"] <= step]

    def _find_readable(self, lines: list[bytes], step: int) -> list[bytes]:
        """Return the readable lines up to `step` whose steps ascend."""
        kept: list[bytes] = []
        first = 0
        for number, line in enumerate(lines, start=1):
            if self._is_readable(number, line, range(first, step + 1)):
                kept.append(line)
                first = parse_row(self.path, number, line)["step"] + 1
        return kept

    def _is_readable(self, number: int, line: bytes, steps: range) -> bool:
        try:
            return parse_row(self.path, number, line)["step"] in steps
        except UserError:
            return False

    def _set_aside(self) -> Path:
        """Copy the file to an unused name, and return the path of the copy."""
        number = 1
        while (place := self.path.with_name(f"{self.path.name}.lost-{number}")).exists():
            number += 1
        write_atomically(place, read_bytes(self.path, RECORDS))
        return place


def read_row(path: Path, step: int) -> dict:
    """Return the row of a step in the file at `path`, {} if there is none. Raises UserError for a damaged line."""
    return next((row for row in read_rows(path) if row["step"] == step), {})


def read_last_step(path: Path) -> int:
    """Return the largest step in the file at `path`, 0 if it has none. Damaged lines are skipped."""
    steps = [0]
    with contextlib.suppress(FileNotFoundError):
        for number, line in enumerate(read_bytes(path, RECORDS).split(b"\n"), start=1):
            with contextlib.suppress(UserError):
                steps.append(parse_row(path, number, line)["step"])
    return max(steps)


def read_rows(path: Path) -> list[dict]:
    """Return the complete rows in the file at `path`, [] if it is missing. Raises UserError for a damaged line."""
    try:
        lines = read_bytes(path, RECORDS).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [parse_row(path, number, line) for number, line in enumerate(lines, start=1)]


def parse_row(path: Path, number: int, line: bytes, after: int = -1) -> dict:
    """Return the row in a line. Raises UserError that names file and line if it is damaged.

    `after` is the step of the row before.
    """
    try:
        row = parse_json(line, path)
    except UserError:
        row = None
    if not is_row(row):
        raise UserError(
            f"{path}, line {number} is damaged: it is not a JSON object with an integer step and values that are numbers, "
            "strings or lists; repair or delete the line"
        )
    if row["step"] <= after:
        raise UserError(
            f"{path}, line {number} is damaged: step {row['step']} does not follow step {after}; repair or delete the line"
        )
    return row


def is_row(value: object) -> TypeGuard[dict]:
    """Return whether a value is a row as `append` writes it."""
    if not isinstance(value, dict) or type(value.get("step")) is not int or value["step"] < 0:
        return False
    return all(map(_is_plain, value.values()))


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no NaN and no infinities, but Python's json reads them
    return value is None or type(value) in (int, str)


def plain(value):
    """Return a value in the form that JSON allows, with arrays (numpy or jax) as lists and non-finite numbers as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
