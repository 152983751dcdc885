"""Errors of the libraries that store checkpoints, each reported once in one line.

The arrays of a checkpoint are read or written one by one. Orbax raises and logs the error of the first array that fails, and
this project reports it in one line. The other arrays fail later, when nothing waits for them. asyncio logs these errors, and
Python prints the errors of tensorstore's threads and of dropped coroutines. Hundreds of lines of tracebacks then bury the one
line that counts.
"""

import json
import logging
import os
import re
import sys
import types

LIBRARIES = ("asyncio", "concurrent", "orbax", "tensorstore")
LONGEST = 200  # characters of a library's message
SYSTEM = re.compile(r"os_error_code='(\d+)'")  # in tensorstore's messages
CODES = {  # tensorstore's messages begin with one of these
    "NOT_FOUND": "one of its files is missing",
    "DATA_LOSS": "one of its files is damaged",
    "FAILED_PRECONDITION": "one of its files is damaged",
    "INVALID_ARGUMENT": "one of its files is damaged",
    "OUT_OF_RANGE": "one of its files is cut short",
    "PERMISSION_DENIED": "one of its files may not be read",
}


def explain(error: Exception) -> str:
    """Return the cause of a library's error in a few words, from the system's error code if there is one."""
    causes: list[BaseException] = [error]
    while (earlier := causes[-1].__cause__ or causes[-1].__context__) is not None and earlier not in causes:
        causes.append(earlier)
    if any(isinstance(cause, json.JSONDecodeError | UnicodeDecodeError) for cause in causes):
        return CODES["DATA_LOSS"]
    texts = [str(cause) for cause in causes]
    for text in texts:
        if code := SYSTEM.search(text):
            return os.strerror(int(code[1]))
    for text in texts:
        if known := CODES.get(text.partition(":")[0]):
            return known
    return next((line for line in texts[0].splitlines() if line.strip()), type(error).__name__)[:LONGEST]


def silence_repetitions() -> None:
    """Drop what these libraries print in addition to the errors they raise, until the process ends.

    An error that has passed through other code, such as this project's, is printed as before.
    """
    if isinstance(sys.unraisablehook, _Hook):
        return
    sys.unraisablehook = _Hook(sys.unraisablehook)
    logging.getLogger("asyncio").addFilter(_is_ours)
    logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)


class _Hook:
    """A hook that Python calls with an error that nothing can catch."""

    def __init__(self, earlier):
        self.earlier = earlier

    def __call__(self, unraisable) -> None:
        if not _is_theirs(unraisable.exc_traceback):
            self.earlier(unraisable)


def _is_ours(record: logging.LogRecord) -> bool:
    """Return whether asyncio should log a record. Errors that tensorstore itself sets on a future have no traceback."""
    return not record.exc_info or (record.exc_info[2] is not None and not _is_theirs(record.exc_info[2]))


def _is_theirs(trace: types.TracebackType | None) -> bool:
    """Return whether an error has passed only through the code of these libraries."""
    names = []
    while trace is not None:
        names.append(trace.tb_frame.f_globals.get("__name__", "").partition(".")[0])
        trace = trace.tb_next
    return bool(names) and all(name in LIBRARIES for name in names)
