"""The sessions in evidence.json, each from a start of a run to its end, as other programs read them. Imports no jax."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from errors import UserError
from files import REMEDY, digest_json, read_json

# What a session holds, where it does: older ones lack some.
HELD = {"data": dict, "packages": dict, "devices": dict, "best": dict, "git": (dict, NoneType)}


def read_sessions(path: Path) -> list[dict]:
    """Returns the sessions of an evidence.json, the oldest first, none without a file. Raises UserError for a damaged one."""
    try:
        stored = read_json(path)
    except FileNotFoundError:
        return []
    sessions = stored.get("sessions")
    if not isinstance(sessions, list) or not all(map(_is_session, sessions)):
        raise UserError(f"{path} does not hold the sessions of a run; {REMEDY}")
    is_older = not any("plans" in own for own in sessions)  # than the checksum
    if stored.get("sha256", digest_json(sessions) if is_older else None) != digest_json(sessions):
        raise UserError(f"{path} was changed since it was written; {REMEDY}")
    return sessions


def _is_session(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name not in value or isinstance(value[name], kind) for name, kind in HELD.items()
    )


def measure_seconds(sessions: Sequence[dict]) -> float | None:
    """Returns how long a run has trained, over all of its sessions, until its newest checkpoint. None where they do not say."""
    try:
        spans = [(own["started"], own.get("updated", own["started"])) for own in sessions]
        moments = [[datetime.datetime.fromisoformat(moment) for moment in span] for span in spans]
        return sum((end - start).total_seconds() for start, end in moments)
    except (TypeError, KeyError, ValueError):
        return None
