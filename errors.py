"""How the code reports what went wrong. Every part may import this file; it imports wording alone."""

import os
import signal
import sys
from types import FrameType

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


def explain_system(error: OSError) -> UserError:
    """Returns the line of an error of the system that no code has foreseen: a name too long, a folder that may not be read.

    Raises the error again where the system has not said what it is.
    """
    if error.errno is None:
        raise error
    where = f"{error.filename}: " if error.filename is not None else ""
    return UserError(f"{where}{os.strerror(error.errno)}; see that it can be read and written, or name another place")


def print_anything() -> None:
    """Makes printing never fail: what the locale's encoding lacks is printed as ? on stdout, where Python would raise."""
    sys.stdout.reconfigure(errors="replace")


def begin_command(code: int | None = None) -> None:
    """Makes Ctrl-C, an error of the user's and one of the system end this command with a line instead of a traceback.

    Call it before what takes time is imported. What is open is closed on the way out; a second Ctrl-C does not wait for that.
    The exit code of Ctrl-C is `code`, or that of a process that SIGINT has ended.
    """
    print_anything()
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # a command in the background hears no Ctrl-C; and what was set already stays
    ended, report, unraisable = [], sys.excepthook, sys.unraisablehook

    def interrupt(number: int, _frame: FrameType | None) -> None:
        ended.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    def end(kind, error, trace) -> None:
        if not ended:  # else the error is of an interrupt, whatever a library has made of it
            if isinstance(error, OSError) and error.errno is not None:
                error = explain_system(error)
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr, flush=True)
            else:
                report(kind, error, trace)
            return
        print(
            "stopped" if code is None else "stopped: start the same command again to go on", file=sys.stderr, flush=True
        )
        if code is None:
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(code)

    signal.signal(signal.SIGINT, interrupt)
    sys.excepthook = end
    sys.unraisablehook = lambda own: None if isinstance(own.exc_value, KeyboardInterrupt) else unraisable(own)
