"""Files: written so that they are there whole or not at all, and read so that whatever they hold, a reader ends in bounds.

Every part may import this file.
"""

import contextlib
import errno
import io
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from errors import UserError

LARGEST = 2**26  # bytes of a file that a run keeps, but for its rows and pictures
DEEPEST = 50  # lists and objects in one another; Python's own limit would be met at some other place
DIGITS = 19  # of a whole number: more of them are no count of anything
REMEDY = "restore it from a backup, or move it away"


def read_bytes(path: Path, most: int = LARGEST, remedy: str = REMEDY) -> bytes:
    """Returns what a file holds.

    Raises FileNotFoundError where there is none, and UserError for what is not a plain file (a folder, a pipe, a device), is
    larger than `most` bytes, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is {'a folder' if stat.S_ISDIR(found.st_mode) else 'no plain file'}; {remedy}")
        if found.st_size > most:
            raise UserError(f"{path} is larger than {most // 2**20} MiB; {remedy}")
        with open(path, "rb") as file:
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {remedy}") from None
    except UserError:
        raise
    except ValueError as error:  # a name that no file system takes
        raise UserError(f"{path} cannot be read: {error}; {remedy}") from None


def read_text(path: Path, most: int = LARGEST, remedy: str = REMEDY) -> str:
    """Returns what a file of text holds. Raises what `read_bytes` does, and UserError for what is not UTF-8."""
    try:
        return read_bytes(path, most, remedy).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); {remedy}") from None


def read_json(path: Path, kind: type = dict, most: int = LARGEST, remedy: str = REMEDY) -> Any:
    """Returns what a file of JSON holds, of `kind` dict or list.

    Raises what `read_bytes` does, and UserError for what is not JSON, or not of that kind.
    """
    return parse_json(read_bytes(path, most, remedy), path, kind, remedy)


def parse_json(content: bytes, where: object, kind: type = dict, remedy: str = REMEDY) -> Any:
    """Returns the value of `kind` in JSON that is found at `where`. Raises UserError for anything else.

    That is: what is not JSON or not UTF-8, deeper than DEEPEST, or has a whole number of more than DIGITS digits.
    """
    try:
        value = DECODER.decode(content.decode())
    except RecursionError:
        value, depth = None, DEEPEST + 1
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); {remedy}") from None
    else:
        # Brackets, as far as they do not stand in texts: a bound that nearly always decides.
        depth = content.count(b"[") + content.count(b"{")
        depth = depth if depth <= DEEPEST else _measure_depth(value)
    if depth > DEEPEST:
        raise UserError(f"{where} has lists or objects nested more than {DEEPEST} deep; {remedy}")
    if not isinstance(value, kind):
        raise UserError(f"{where} does not hold {'an object' if kind is dict else 'a list'} of JSON; {remedy}")
    return value


def _measure_depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [own for own in level if isinstance(own, dict | list)]:
        depth += 1
        level = [item for own in level for item in (own.values() if isinstance(own, dict) else own)]
    return depth


def _parse_whole(text: str) -> int:
    if len(text.lstrip("-")) > DIGITS:
        raise ValueError(f"a whole number of more than {DIGITS} digits")
    return int(text)


DECODER = json.JSONDecoder(parse_int=_parse_whole)


def write_atomically(path: Path, content: bytes | IO[bytes]) -> None:
    """Write a file so that a kill or a power cut leaves the old content or the new one, never a mixture.

    Folders that are missing are made. Raises UserError where the disk refuses.
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
            os.fsync(folder)  # the rename itself survives a power cut only when the folder is on the disk
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror}; the earlier content is kept") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Write a folder of files so that it is there with all of them or not at all. Returns False where it was there already.

    Raises UserError, and changes nothing, where it is there with another content of one of them, and where the disk refuses.
    """
    if folder.exists():
        for name, content in files.items():
            place = folder / name
            if not place.is_file() or place.read_bytes() != content:
                raise UserError(f"{folder} is there already, with another {name}; delete it, or name another --output")
        return False
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        if temporary.exists():  # of a write that was killed
            shutil.rmtree(temporary)
        for name, content in files.items():
            write_atomically(temporary / name, content)
        os.replace(temporary, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    return True


def claim_folder(folder: Path, facts: Mapping[str, Any], refusal: str) -> None:
    """Write into a folder what its files are made with: `facts`.

    Raises UserError, with the words of `refusal`, where the folder holds files that are made with something else.
    """
    place, content = folder / "made_with.json", json.dumps(facts, indent=2).encode() + b"\n"
    if place.exists() and place.read_bytes() != content:
        raise UserError(f"{folder} {refusal}")
    write_atomically(place, content)
