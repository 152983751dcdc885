"""Where a run may lie: what --workdir says, as a path. Imports no jax."""

import os
import pathlib

from errors import UserError
from files import expand_user

# Orbax finds its files by a pattern that begins with the path: with these it misses them, or finds another run's.
PATTERN = "*?[]\\"


def locate(workdir: str) -> pathlib.Path:
    """Returns --workdir as an absolute path, with the values of the environment's variables where no shell put them.

    Raises UserError for a path that a run cannot have.
    """
    if not workdir:
        raise UserError("--workdir is missing; give the run's directory, such as --workdir=runs/first")
    place = expand_user(os.path.expandvars(workdir)).absolute()
    if "$" in str(place):
        raise UserError(f"--workdir={workdir}: the environment variable is not set; set it")
    if any("\ud800" <= character <= "\udfff" for character in str(place)):
        raise UserError(f"--workdir={place} is not UTF-8 in this locale; choose another path, or set LC_ALL=C.UTF-8")
    wrong = [character for character in str(place) if character in PATTERN or not character.isprintable()]
    if wrong:
        raise UserError(
            f"--workdir={place}: a run's path cannot hold {wrong[0]!r}, for its checkpoints would not be found again; choose a "
            "path of letters, digits, '-', '_' and '.'"
        )
    try:
        (place / "config.json").exists()
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        raise UserError(f"--workdir={place}: cannot be used ({error.strerror}); choose another") from None
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--workdir={place}: {existing} is not a folder; choose another")
    schemes = [part for part in place.parts if part.endswith(":")]
    if schemes:
        raise UserError(f"--workdir={place}: {schemes[0]!r} begins the address of an object store; give a local folder")
    return place
