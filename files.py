"""Files that are there whole or not at all. Every part may import this file."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from errors import UserError


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
