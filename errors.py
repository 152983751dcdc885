"""Errors and warnings in one printable line. Every part may import this file, which imports only wording."""

import io
import os
import signal
import sys
from types import FrameType

from wording import make_printable


class UserError(ValueError):
    """An error of the user, the data or the machine in one line with place, cause and remedy.

    Characters that would break the line or control a terminal are replaced, as names of files and classes may have any.
    """

    def __init__(self, message: object):
        super().__init__(make_printable(str(message)))


def print_lines(*lines: str) -> None:
    """Print each text as one line on stdout, with unprintable characters replaced."""
    print("\n".join(map(make_printable, lines)), flush=True)


def warn(message: str) -> None:
    """Print one line on stderr about a problem that the code has handled."""
    print(f"warning: {make_printable(message)}", file=sys.stderr, flush=True)


def explain_system(error: OSError) -> UserError:
    """Return a one-line error for an unforeseen error of the system, such as a name too long or a missing permission.

    Raises the error again if it has no number of the system.
    """
    if error.errno is None:
        raise error
    where = f"{error.filename}: " if error.filename is not None else ""
    return UserError(f"{where}{os.strerror(error.errno)}; see that it can be read and written, or name another place")


def print_anything() -> None:
    """Print characters that the locale's encoding lacks as ? on stdout, instead of raising UnicodeEncodeError."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def begin_command(code: int | None = None) -> None:
    """End this command with one line instead of a traceback on Ctrl-C, a UserError or an error of the system.

    Call it before slow imports. Open files are closed on the way out; a second Ctrl-C does not wait for that. Ctrl-C exits with
    `code`, or by default like a process that SIGINT has ended.
    """
    print_anything()
    ended, report, unraisable = [], sys.excepthook, sys.unraisablehook

    def interrupt(number: int, _frame: FrameType | None) -> None:
        ended.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    def end(kind, error, trace) -> None:
        if not ended:  # else the interrupt caused the error, perhaps converted by a library
            if isinstance(error, OSError) and error.errno is not None:
                error = explain_system(error)
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr, flush=True)
            else:
                report(kind, error, trace)
            return
        if code is None:
            print("stopped", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGINT)
        else:
            print("stopped: start the same command again to go on", file=sys.stderr, flush=True)
            os._exit(code)

    sys.excepthook = end
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # a command in the background ignores Ctrl-C, and an earlier handler stays
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = lambda own: None if isinstance(own.exc_value, KeyboardInterrupt) else unraisable(own)
