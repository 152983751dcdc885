"""The arguments of the commands that are not modes of main.py. Imports no jax."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {message}")


def report(work: Callable[[], list[str]]) -> int:
    """Print the lines that `work` returns, or its UserError as one line on stderr. Returns the exit code."""
    try:
        print("\n".join(work()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
