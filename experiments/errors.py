"""How a run speaks of what went wrong."""

import sys


class RunError(ValueError):
    """A mistake of the user's, or of their machine, told in one line: what is wrong, where, and what to do about it."""


def warn(message: str) -> None:
    """One line on stderr about something that went wrong and was dealt with."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
