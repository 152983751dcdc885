"""The errors of the libraries that store checkpoints: each in one line, and once.

The arrays of a checkpoint are read or written one by one. Orbax raises the error of the first one that fails, which becomes one
line of ours. It logs it too. The others fail as well, when nobody waits for them any more: asyncio logs them, and Python prints
what tensorstore's threads and dropped coroutines raise. Hundreds of lines of tracebacks then bury the one that counts.
"""

import json
import logging
import os
import re
import sys
import types

LIBRARIES = ("asyncio", "concurrent", "orbax", "tensorstore")
LONGEST = 200  # characters of what a library says
SYSTEM = re.compile(r"os_error_code='(\d+)'")  # in tensorstore's words
CODES = {  # that tensorstore's words begin with
    "NOT_FOUND": "a file of it is missing",
    "DATA_LOSS": "a file of it is damaged",
    "FAILED_PRECONDITION": "a file of it is damaged",
    "INVALID_ARGUMENT": "a file of it is damaged",
    "OUT_OF_RANGE": "a file of it is cut short",
    "PERMISSION_DENIED": "a file of it may not be read",
}


def explain(error: Exception) -> str:
    """Returns the cause of a library's error in a few words: the system's, where there is one, or else its first line."""
    causes = [error]
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
    """Drops what these libraries print in addition to what they raise, from the first call to the end of the process.

    An error that has passed through any other code, such as ours, is printed as before.
    """
    if isinstance(sys.unraisablehook, _Hook):
        return
    sys.unraisablehook = _Hook(sys.unraisablehook)
    logging.getLogger("asyncio").addFilter(_is_ours)
    logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)


class _Hook:
    """What Python calls with an error that nothing can catch."""

    def __init__(self, earlier):
        self.earlier = earlier

    def __call__(self, unraisable) -> None:
        if not _is_theirs(unraisable.exc_traceback):
            self.earlier(unraisable)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether asyncio should log a record. The errors that tensorstore gives to a future itself have no traceback."""
    return not record.exc_info or (record.exc_info[2] is not None and not _is_theirs(record.exc_info[2]))


def _is_theirs(trace: types.TracebackType | None) -> bool:
    """Whether an error has passed through the code of these libraries alone."""
    names = []
    while trace is not None:
        names.append(trace.tb_frame.f_globals.get("__name__", "").partition(".")[0])
        trace = trace.tb_next
    return bool(names) and all(name in LIBRARIES for name in names)
