"""Read the sessions in evidence.json. A session lasts from a start of a run to its end. Imports no jax."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from errors import UserError
from files import REMEDY, digest_json, read_json

# Optional fields of a session and their types. Older sessions lack some.
HELD = {"data": dict, "packages": dict, "devices": dict, "best": dict, "git": (dict, NoneType)}


def read_sessions(path: Path) -> list[dict]:
    """Return the sessions of an evidence.json, the oldest first.

    Returns an empty list if the file does not exist. Raises UserError if it is damaged.
    """
    try:
        stored = read_json(path)
    except FileNotFoundError:
        return []
    sessions = stored.get("sessions")
    if not isinstance(sessions, list) or not all(map(_is_session, sessions)):
        raise UserError(f"{path} does not contain the sessions of a run; {REMEDY}")
    is_older = not any("plans" in own for own in sessions)  # written before the checksum existed
    if stored.get("sha256", digest_json(sessions) if is_older else None) != digest_json(sessions):
        raise UserError(f"{path} was changed since it was written; {REMEDY}")
    return sessions


def _is_session(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name not in value or isinstance(value[name], kind) for name, kind in HELD.items()
    )


def measure_seconds(sessions: Sequence[dict]) -> float | None:
    """Return the training time of all sessions until the newest checkpoint, in seconds.

    Returns None if a session lacks its times.
    """
    try:
        spans = [(own["started"], own.get("updated", own["started"])) for own in sessions]
        moments = [[datetime.datetime.fromisoformat(moment) for moment in span] for span in spans]
        return sum((end - start).total_seconds() for start, end in moments)
    except (TypeError, KeyError, ValueError):
        return None
