"""The parser of the commands that are not modes of main.py. Imports no jax."""

import argparse
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as in main.py."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"error: {UserError(message)}")

    # The signature accepts every call of argparse's overloads, which pyright does not see.
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse as argparse does. End the process if a flag is given twice with different values."""
        arguments = sys.argv[1:] if args is None else list(args)
        try:
            refuse_contradictions(arguments)
        except UserError as error:
            self.error(str(error))
        return super().parse_known_args(arguments, namespace)


def refuse_contradictions(arguments: Sequence[str]) -> None:
    """Raise UserError if a flag is given twice with different values."""
    given: dict[str, str] = {}
    for word, following in itertools.zip_longest(arguments, arguments[1:], fillvalue="-"):
        flag = re.fullmatch(r"--?([\w.]+)(?:=(.*))?", word, flags=re.DOTALL)
        if flag is None:
            continue
        name, value = flag[1], flag[2]
        if value is None:
            value = "True" if following.startswith("-") else following
        if given.setdefault(name, value) != value:
            raise UserError(f"--{name} is given twice, as {given[name]!r} and as {value!r}; remove one")
    for name in given:
        if name.removeprefix("no") in given and name.startswith("no"):
            raise UserError(f"--{name} and --{name.removeprefix('no')} contradict each other; remove one")


def report(work: Callable[[], list[str]]) -> int:
    """Print the lines that `work` returns, or its UserError as one line on stderr. Return the exit code."""
    try:
        print("\n".join(work()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
