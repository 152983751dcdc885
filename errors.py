"""How the code reports what went wrong. Every part may import this file; it imports nothing of ours."""

import sys


class UserError(ValueError):
    """An error of the user, the data or the machine, in one line: what is wrong, where, and what to do about it."""


def warn(message: str) -> None:
    """Prints one line on stderr about something that went wrong and was dealt with."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
