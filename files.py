"""Files, written completely or not at all, and read within limits of time and memory.

Every part may import this file.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import IO, Any

from errors import UserError
from limits import DEEPEST, DIGITS, MB, RUN_FILE

LIMITS = "docs/security.md#limits"
REMEDY = "correct it, restore it from a backup, or move it away"
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of this machine
SMALL = 256 * MB  # any machine has this much
BYTES_OF_JSON, BYTES_OF_LIST = 8, 80  # measured memory per byte of JSON, and per list or object


class MissingFile(UserError, FileNotFoundError):
    """A file is missing. Callers that do not need it catch this error. Otherwise the user sees one line."""


def expand_user(path: str | Path) -> Path:
    """Return the path with `~` or `~NAME` replaced by the home folder. An unknown user leaves it unchanged."""
    return Path(os.path.expanduser(path))


def read_bytes(path: Path, most: int = RUN_FILE, remedy: str = REMEDY) -> bytes:
    """Return the content of a file of at most `most` bytes.

    Raises MissingFile if it is missing. Raises UserError if it is larger, before it is read, if it is not a plain file (a folder,
    a pipe, a device, a loop of links), and if it cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a device or a socket"
            raise UserError(f"{path} is {kind}, and not a file; {remedy}")
        if found.st_size <= most:
            with open(path, "rb") as file:
                content = file.read(most + 1)  # it may have grown, or its kind has no size
            if len(content) <= most:
                return content
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {remedy}") from None
    except MemoryError:
        raise UserError(f"{path} cannot be read: it does not fit in the free memory") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {error}; {remedy}") from None  # a null in the name
    raise UserError(f"{path} has more than {most / MB:,g} MB, which is the limit for a file of its kind ({LIMITS})")


def read_text(path: Path, most: int = RUN_FILE, remedy: str = REMEDY, errors: str = "strict") -> str:
    """Return the content of a text file in UTF-8, decoded with `errors` as in bytes.decode.

    Raises the errors of `read_bytes`, and UserError if the content is not UTF-8.
    """
    try:
        return read_bytes(path, most, remedy).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); {remedy}") from None


def read_json(path: Path, most: int = RUN_FILE, kind: type = dict, remedy: str = REMEDY, digits: int = DIGITS) -> Any:
    """Return the value in a JSON file, of `kind` dict or list, or object for any kind.

    Raises the errors of `read_bytes` and of `parse_json`.
    """
    return parse_json(read_bytes(path, most, remedy), path, kind, remedy, digits)


def parse_json(content: bytes, where: object, kind: type = dict, remedy: str = REMEDY, digits: int = DIGITS) -> Any:
    """Return the value of `kind` in the JSON `content` of the file `where`.

    Raises UserError if it is not JSON, has another kind, is nested deeper than DEEPEST, has an integer of more than `digits`
    digits, or does not fit in memory.
    """
    brackets = content.count(b"[") + content.count(b"{")  # lists and objects, and brackets in texts
    needed = BYTES_OF_JSON * len(content) + BYTES_OF_LIST * brackets
    if needed > max(MEMORY, SMALL):
        raise UserError(
            f"{where} may take {needed / MB:,.0f} MB of memory, and this machine has {MEMORY / MB:,.0f} MB; use a larger "
            "one, or cut the file into parts"
        )
    try:
        value = json.loads(content, parse_int=functools.partial(_parse_whole, digits))
    except RecursionError:
        value, depth = None, DEEPEST + 1
    except MemoryError:
        raise UserError(f"{where} cannot be read: its content does not fit in the free memory") from None
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); {remedy}") from None
    else:
        depth = brackets if brackets <= DEEPEST else _measure_depth(value)
    if depth > DEEPEST:
        raise UserError(f"{where} has lists or objects nested more than {DEEPEST} deep; {remedy}")
    if not isinstance(value, kind):
        raise UserError(f"{where} does not hold {'an object' if kind is dict else 'a list'} of JSON; {remedy}")
    return value


def _measure_depth(value: Any) -> int:
    depth, level = 0, [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        items = (item for own in level for item in (own.values() if isinstance(own, dict) else own))
        level = [item for item in items if isinstance(item, dict | list)]
    return depth


def _parse_whole(digits: int, text: str) -> int:
    if len(text.lstrip("-")) > digits:
        raise ValueError(f"a whole number of more than {digits} digits")
    return int(text)


def leads_out(name: str) -> bool:
    """Return whether a path from an untrusted file leads out of the folder that it is relative to."""
    path = PurePath(name)
    return path.is_absolute() or ".." in path.parts


def open_lock(path: Path) -> IO[bytes]:
    """Open a file to lock, and create it and its folder if they are missing.

    Raises OSError if the disk refuses, and UserError if it is not a file, as opening a pipe could block forever.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file; move it away")
    return open(path, "ab+")


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, regardless of its layout in a file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, content: bytes | IO[bytes]) -> None:
    """Write a file so that a kill or a power cut leaves the old content or the new one, never a mixture.

    Creates missing folders. Raises UserError if the disk refuses.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            shutil.copyfileobj(io.BytesIO(content) if isinstance(content, bytes) else content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename survives a power cut only after the folder is on the disk
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror}; the earlier content is kept") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Write a folder with all of its files or not at all. Returns False if it existed already with these files.

    Raises UserError, and changes nothing, if one of its files has another content, and if the disk refuses.
    """
    if folder.exists():
        for name, content in files.items():
            place = folder / name
            if not place.is_file() or place.read_bytes() != content:
                raise UserError(f"{folder} is there already, with another {name}; delete it, or name another --output")
        return False
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        if temporary.exists():  # left by a write that was killed
            shutil.rmtree(temporary)
        for name, content in files.items():
            write_atomically(temporary / name, content)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    return True


def claim_folder(folder: Path, facts: Mapping[str, Any], refusal: str) -> None:
    """Write `facts` into a folder, which say how its files are made.

    Raises UserError with the text `refusal` if the folder has other facts.
    """
    place, content = folder / "made_with.json", json.dumps(facts, indent=2).encode() + b"\n"
    if place.exists() and place.read_bytes() != content:
        raise UserError(f"{folder} {refusal}")
    write_atomically(place, content)
