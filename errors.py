"""How the code reports what went wrong. Every part may import this file; it imports wording alone."""

import sys

from wording import make_printable


class UserError(ValueError):
    """An error of the user, the data or the machine, in one line: what is wrong, where, and what to do about it.

    Names of files and classes in it may hold anything: what would break the line or steer a terminal is replaced.
    """

    def __init__(self, message: object):
        super().__init__(make_printable(str(message)))


def print_lines(*lines: str) -> None:
    """Prints each as one line on stdout: names of files and classes in them may hold anything."""
    print("\n".join(map(make_printable, lines)), flush=True)


def warn(message: str) -> None:
    """Prints one line on stderr about something that went wrong and was dealt with."""
    print(f"warning: {make_printable(message)}", file=sys.stderr, flush=True)
