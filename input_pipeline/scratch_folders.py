"""Folders for unfinished preparations of datasets, `.NAME-xxxxxxxx` next to the prepared datasets.

A preparing process holds a lock on a file in its folder. The kernel drops the lock when the process ends, however that happens.
So the next preparation knows which folders belong to killed processes, and removes them.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO

LOCK = ".preparing"  # a name that no other program gives


@contextlib.contextmanager
def make(place: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """Make a folder in `place` to prepare the dataset `name` in. It is removed at the end, with any files left in it."""
    while True:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place))
        with contextlib.suppress(FileNotFoundError), open(scratch / LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have run `clean` before the file was opened, or before it was locked.
            if os.fstat(lock.fileno()).st_nlink and (scratch / LOCK).exists():
                try:
                    yield scratch
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
                return


def clean(place: pathlib.Path) -> None:
    """Remove the folders of killed preparations in `place`. Folders of running ones and of earlier versions stay."""
    for scratch in sorted(place.glob(".*-*")):
        if is_running(scratch) is False:
            shutil.rmtree(scratch, ignore_errors=True)


def is_running(scratch: pathlib.Path) -> bool | None:
    """Return whether the process that made the folder still works in it, or None where that is unknown."""
    try:
        with open(scratch / LOCK, "rb+") as lock:
            return not _take(lock)
    except OSError:
        return None


def _take(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
