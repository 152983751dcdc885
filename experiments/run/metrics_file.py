"""metrics.jsonl, the one record of a run: what W&B, a dashboard or a comparison shows comes from it."""

import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from errors import UserError, warn
from files import parse_json, read_bytes, write_atomically
from limits import RECORDS


class MetricsFile:
    """metrics.jsonl: one JSON object per line, `{"step": int, name: number, string or list, ...}`.

    A step has at most one line, and the steps ascend. One process writes it; a resumed run first calls `cut`.
    """

    def __init__(self, path: Path):
        """Open `path` to append to it, making it when missing. Raises UserError where the disk refuses."""
        self.path = path
        lines = self._read() if os.path.lexists(path) else []  # before it is opened, which for a pipe has no end
        self._file = self._open()
        self._remember(lines)

    def _open(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return open(self.path, "ab", buffering=0)  # unbuffered: what append wrote outlives a kill -9
        except OSError as error:
            raise UserError(f"{self.path}: cannot be opened: {error.strerror}") from error

    def _remember(self, lines: list[bytes]) -> None:
        self._count, self._hash = len(lines), hashlib.sha256(b"".join(lines))

    @property
    def mark(self) -> dict[str, Any]:
        """How many lines there are, and the SHA-256 of their bytes: a checkpoint keeps it, and `cut` takes it."""
        return {"count": self._count, "sha256": self._hash.hexdigest()}

    def append(self, step: int, values: Mapping[str, object]) -> None:
        """Write one line. Values are numbers, strings, arrays or lists of them; NaN and infinities become null.

        Raises UserError when the disk is full or unavailable; the line is then absent, never partial.
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
                f"{self.path}: cannot write step {step}: {error.strerror}; make room and start the same command again"
            ) from error
        self._count += 1
        self._hash.update(line)

    def sync(self) -> None:
        """Flush every line to disk: a checkpoint may only be saved after the lines that it covers."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be flushed to disk: {error.strerror}") from error

    def cut(self, step: int, mark: Mapping[str, Any] | None = None, accept_lost: bool = False) -> None:
        """Drop what follows the lines of `mark`, or without one the lines after `step`; the others stay byte for byte.

        The new content replaces the file in one rename: a reader sees the old file or the new one, never a part.
        Raises UserError where lines that should stay are missing, changed or damaged. With `accept_lost` that is a warning: the
        readable ones up to `step` stay, and the file as it was is kept under another name.
        """
        lines = self._read()
        try:
            kept = self._select(lines, step) if mark is None else self._check(lines, step, mark)
        except UserError as error:
            if not accept_lost:
                raise
            aside = self._set_aside()
            what, _, _ = str(error).partition("; ")
            warn(f"{what}: going on without them; the file as it was is kept in {aside}")
            kept = self._find_readable(lines, step)
        content = b"".join(kept)
        if len(content) != self.path.stat().st_size:
            write_atomically(self.path, content)
            self._file.close()
            self._file = self._open()
        self._remember(kept)

    def rows(self) -> Iterator[dict]:
        """Every complete line, in order. Raises UserError naming a damaged one."""
        step = -1
        for number, line in enumerate(self._read(), start=1):
            row = parse_row(self.path, number, line, after=step)
            step = row["step"]
            yield row

    def close(self) -> None:
        """Close the file; lines stay as they are."""
        self._file.close()

    def _read(self) -> list[bytes]:
        """The complete lines."""
        return [line for line in io.BytesIO(read_bytes(self.path, RECORDS)) if line.endswith(b"\n")]

    def _check(self, lines: list[bytes], step: int, mark: Mapping[str, Any]) -> list[bytes]:
        """The lines that a checkpoint's mark covers. What follows them may be anything: it is written again."""
        kept = lines[: mark["count"]]
        if hashlib.sha256(b"".join(kept)).hexdigest() == mark["sha256"]:
            return kept
        if len(kept) < mark["count"]:
            what = f"has {len(kept)} of the {mark['count']} rows that were there when step {step} was saved"
        else:
            what = f"has other rows than were there when step {step} was saved"
        raise UserError(f"{self.path} {what}; restore it from a backup, or go on without them with --accept_lost_rows")

    def _select(self, lines: list[bytes], step: int) -> list[bytes]:
        """The lines up to `step`, of an older run, whose checkpoints keep no mark."""
        count = len(lines)
        while count and not self._is_readable(count, lines[count - 1], range(step + 1)):
            count -= 1
        rows = ((line, parse_row(self.path, number, line)) for number, line in enumerate(lines[:count], start=1))
        return [line for line, row in rows if row["step"] <= step]

    def _find_readable(self, lines: list[bytes], step: int) -> list[bytes]:
        """The readable lines up to `step` whose steps ascend."""
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
        """Copy the file to a name that is free."""
        number = 1
        while (place := self.path.with_name(f"{self.path.name}.lost-{number}")).exists():
            number += 1
        write_atomically(place, read_bytes(self.path, RECORDS))
        return place


def read_row(path: Path, step: int) -> dict:
    """Return the row of a step in the file at `path`: empty where there is none. Raises UserError for a damaged line."""
    return next((row for row in read_rows(path) if row["step"] == step), {})


def read_last_step(path: Path) -> int:
    """Return the largest step in the file at `path`, 0 where it has none. Damaged lines are passed over."""
    steps = [0]
    with contextlib.suppress(FileNotFoundError):
        for number, line in enumerate(read_bytes(path, RECORDS).split(b"\n"), start=1):
            with contextlib.suppress(UserError):
                steps.append(parse_row(path, number, line)["step"])
    return max(steps)


def read_rows(path: Path) -> list[dict]:
    """Return the whole rows in the file at `path`, an empty list if it is missing. Raises UserError for a damaged line."""
    try:
        lines = read_bytes(path, RECORDS).split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [parse_row(path, number, line) for number, line in enumerate(lines, start=1)]


def parse_row(path: Path, number: int, line: bytes, after: int = -1) -> dict:
    """Return the row in a line. Raises UserError, naming file and line, for one that is damaged.

    `after` is the step of the row before.
    """
    try:
        row = parse_json(line, path)
    except UserError:
        row = None
    if not is_row(row):
        raise UserError(
            f"{path}, line {number}: damaged, not a JSON object with a whole step, and numbers, texts and lists; repair or "
            "delete the line"
        )
    if row["step"] <= after:
        raise UserError(
            f"{path}, line {number}: damaged, step {row['step']} does not follow step {after}; repair or delete the line"
        )
    return row


def is_row(value: object) -> bool:
    """Return whether a value is what `append` writes as a line."""
    if not isinstance(value, dict) or type(value.get("step")) is not int or value["step"] < 0:
        return False
    return all(map(_is_plain, value.values()))


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no such numbers, and Python's reads them all the same
    return value is None or type(value) in (int, str)


def plain(value):
    """Return a value as JSON can hold it: arrays (of numpy or jax, by `tolist`) as lists, what is not finite as null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
