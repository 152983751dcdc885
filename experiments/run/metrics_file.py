"""metrics.jsonl, the one record of a run: what W&B, a dashboard or a comparison shows comes from it."""

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from errors import UserError
from files import parse_json, read_bytes, write_atomically

MOST = 2**32  # bytes of a file


class MetricsFile:
    """metrics.jsonl: one JSON object per line, `{"step": int, name: number, string or list, ...}`.

    A step has at most one line, and the steps ascend. One process writes it; a resumed run first calls `cut`.
    """

    def __init__(self, path: Path):
        """Open `path` to append to it, making it when missing. Raises UserError where the disk refuses."""
        self.path = path
        self._file = self._open()

    def _open(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return open(self.path, "ab", buffering=0)  # unbuffered: what append wrote outlives a kill -9
        except OSError as error:
            raise UserError(f"{self.path}: cannot be opened: {error.strerror}") from error

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

    def sync(self) -> None:
        """Flush every line to disk: a checkpoint may only be saved after the lines that it covers."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be flushed to disk: {error.strerror}") from error

    def cut(self, step: int) -> None:
        """Drop the lines after `step`, and a last line without its newline; the others stay byte for byte.

        The new content replaces the file in one rename: a reader sees the old file or the new one, never a part.
        Raises UserError naming the line where the content is damaged.
        """
        kept = b"".join(line for line, row in self._lines() if row["step"] <= step)
        if len(kept) != self.path.stat().st_size:
            write_atomically(self.path, kept)
            self._file.close()
            self._file = self._open()

    def rows(self) -> Iterator[dict]:
        """Every complete line, in order. Raises UserError naming a damaged one."""
        return (row for _, row in self._lines())

    def close(self) -> None:
        """Close the file; lines stay as they are."""
        self._file.close()

    def _lines(self) -> Iterator[tuple[bytes, dict]]:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error
        step = -1
        for number, line in enumerate(io.BytesIO(content), start=1):
            if line.endswith(b"\n"):
                row = parse_row(self.path, number, line, after=step)
                step = row["step"]
                yield line, row


def read_row(path: Path, step: int) -> dict:
    """Return the row of a step in the file at `path`: empty where there is none. Raises UserError for a damaged line."""
    return next((row for row in read_rows(path) if row["step"] == step), {})


def read_rows(path: Path) -> list[dict]:
    """Return the whole rows in the file at `path`: none where there is no file. Raises UserError for a damaged line."""
    try:
        lines = read_bytes(path, MOST).split(b"\n")[:-1]
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
