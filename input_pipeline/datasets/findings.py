"""Findings of a folder's check, stored as JSON with a checksum until the folder's files change."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Collection

from errors import UserError
from files import parse_json, read_bytes, write_atomically
from limits import METADATA


def remember(path: pathlib.Path, keys: Collection[str], check: Callable[[], dict]) -> dict:
    """Return the dictionary with `keys` that `check` finds, from the file at `path` if it is there and undamaged.

    Else run `check`, and store its findings there where that is possible.
    """
    with contextlib.suppress(UserError, UnicodeDecodeError):
        checksum, _, content = read_bytes(path, METADATA).partition(b"\n")
        if checksum.decode() == hashlib.sha256(content).hexdigest():
            findings = parse_json(content, path)
            if findings.keys() == set(keys) and all(isinstance(value, list | dict) for value in findings.values()):
                return findings
    findings = check()
    content = json.dumps(findings).encode()
    with contextlib.suppress(UserError):
        write_atomically(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    return findings
