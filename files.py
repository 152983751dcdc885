"""Files that are written whole or not at all, and read up to a limit. Every part may import this file."""

import contextlib
import io
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from errors import UserError
from limits import MB

LIMITS = "docs/security.md#limits"
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes, of the machine
SMALL = 256 * MB  # that any machine has
BYTES_OF_JSON, BYTES_OF_LIST = 8, 80  # of memory for a byte of JSON, and for a list or an object, as they were measured


def read_file(path: Path, largest: int) -> bytes:
    """Return the content of a file of at most `largest` bytes.

    Raises UserError for a larger one, before it is read, and for what is no file: a folder, a pipe, a device, a loop of links.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a device or a socket"
            raise UserError(f"{path} is {kind}, and not a file; take it away, or give a file")
        if status.st_size <= largest:
            with open(path, "rb") as file:
                content = file.read(largest + 1)  # it may have grown, or be of a kind that has no size
            if len(content) <= largest:
                return content
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null in the name
        raise UserError(f"{path}: cannot be read: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: cannot be read: it does not fit in the memory that is left") from error
    raise UserError(f"{path} has more than {largest / MB:,g} MB, which is the limit for a file of its kind ({LIMITS})")


def read_text(path: Path, largest: int, errors: str = "replace") -> str:
    """Return the text of a UTF-8 file, like `read_file`; `errors` says what becomes of bytes that are none."""
    try:
        return read_file(path, largest).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: it is not UTF-8 ({error.reason}); store it as UTF-8") from error


def read_json(path: Path, largest: int) -> Any:
    """Return what a JSON file holds, like `read_file`. Raises UserError for what is not JSON, or is nested too deeply."""
    try:
        content = read_file(path, largest)
        needed = BYTES_OF_JSON * len(content) + BYTES_OF_LIST * (content.count(b"[") + content.count(b"{"))
        if needed > max(MEMORY, SMALL):
            raise UserError(
                f"{path} may take {needed / MB:,.0f} MB of memory, and this machine has {MEMORY / MB:,.0f} MB; use a larger "
                "one, or cut the file into parts"
            )
        return json.loads(content)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: not JSON: it cannot be parsed ({error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: cannot be used: lists or objects are nested too deeply; correct it") from error
    except MemoryError as error:
        raise UserError(f"{path}: cannot be read: what it holds does not fit in the memory that is left") from error


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
