"""The code of config files, read from its source, and one-line reports of its errors. Imports no jax."""

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Iterator

from errors import UserError

COPY = (
    "Error whilst parsing config file"  # the start of an error that ml_collections raises instead of the original one
)
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@contextlib.contextmanager
def read_source() -> Iterator[None]:
    """Import config files without leaving bytecode, which Python would take for a file of the same second and size."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def explain(error: BaseException, file: str | pathlib.Path) -> str | None:
    """Return one line with the error and its place in a config file, or in a file of configs/ that it uses.

    Return None for an error of other code.
    """
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, UserError) and not str(one).startswith(COPY):
            return str(one)
        if isinstance(one, SyntaxError) and (one.filename is None or _is_config(one.filename, file)):
            where = f"{file}" if one.filename is None else f"{one.filename}, line {one.lineno}"
            return f"{where}: {type(one).__name__}: {one.msg}"
        frames = [own for own in traceback.extract_tb(one.__traceback__) if _is_config(own.filename, file)]
        if frames:
            text = " ".join(str(one).split())
            return f"{frames[-1].filename}, line {frames[-1].lineno}: {type(one).__name__}{': ' if text else ''}{text}"
        one = one.__cause__ or one.__context__
    return None


def _is_config(name: str, file: str | pathlib.Path) -> bool:
    path = pathlib.Path(name).absolute()
    return path == pathlib.Path(file).absolute() or path.parent == CONFIGS
