"""The folders in which datasets are prepared, until they are whole: `.NAME-xxxxxxxx` in the place of prepared datasets.

The process that prepares holds a lock on a file in its folder, which the kernel drops with the process, however that ends. So
the next preparation knows which folders are of killed ones, and removes them.
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
    """Make a folder in `place` to prepare the dataset `name` in; it is removed at the end, with what is left in it."""
    while True:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place))
        with contextlib.suppress(FileNotFoundError), open(scratch / LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have cleaned between the two lines, or done so before the first one.
            if os.fstat(lock.fileno()).st_nlink and (scratch / LOCK).exists():
                try:
                    yield scratch
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
                return


def clean(place: pathlib.Path) -> None:
    """Remove the folders of killed preparations in `place`. Those of running ones stay, and those of earlier versions."""
    for scratch in sorted(place.glob(".*-*")):
        if is_running(scratch) is False:
            shutil.rmtree(scratch, ignore_errors=True)


def is_running(scratch: pathlib.Path) -> bool | None:
    """Whether the process that made the folder still works in it; None where that cannot be known."""
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
