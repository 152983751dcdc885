"""The directory of a run, --workdir, as a checked path. Imports no jax."""

import os
import pathlib

from errors import UserError
from files import expand_user

# Orbax uses the path as a glob pattern. With these characters it misses its files, or finds those of another run.
PATTERN = "*?[]\\"


def locate(workdir: str) -> pathlib.Path:
    """Return --workdir as an absolute path, with `~` and environment variables expanded.

    Raises UserError for a path that a run cannot have.
    """
    if not workdir:
        raise UserError("--workdir is missing; give the run's directory, such as --workdir=runs/first")
    place = expand_user(os.path.expandvars(workdir)).absolute()
    if "$" in str(place):
        raise UserError(f"--workdir={workdir} uses an environment variable that is not set; set it")
    if any("\ud800" <= character <= "\udfff" for character in str(place)):
        raise UserError(f"--workdir={place} is not UTF-8 in this locale; choose another path, or set LC_ALL=C.UTF-8")
    wrong = [character for character in str(place) if character in PATTERN or not character.isprintable()]
    if wrong:
        raise UserError(
            f"--workdir={place} contains {wrong[0]!r}, and checkpoints below such a path cannot be found again; choose a path of "
            "letters, digits, '-', '_' and '.'"
        )
    try:
        (place / "config.json").exists()
    except OSError as error:  # the name is too long, or a folder may not be entered
        raise UserError(f"--workdir={place} cannot be used ({error.strerror}); choose another") from None
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--workdir={place} is not usable, because {existing} is not a folder; choose another")
    schemes = [part for part in place.parts if part.endswith(":")]
    if schemes:
        raise UserError(f"--workdir={place} is the address of an object store ({schemes[0]!r}); give a local folder")
    return place
