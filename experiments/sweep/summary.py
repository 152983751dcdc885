"""The results of a sweep, as a table for people and as sweep.json and summary.csv for programs."""

import contextlib
import csv
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from errors import UserError
from experiments.sweep.launch import Progress
from experiments.sweep.plan import list_varied
from files import read_json, write_atomically
from wording import make_cell

HEADER = ("run", "state", "step", "metric", "best", "last", "time")


def summarise(runs: Sequence[Progress]) -> str:
    """Return the runs as an aligned table, followed by the notes about some of them."""
    rows = [HEADER, *map(describe, runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{run.job.label}: {run.phase.value}: {run.note}" for run in runs if run.note]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def describe(run: Progress) -> tuple[str, ...]:
    """Return the cells of a run in the order of HEADER."""
    state, best = run.state, run.state.best
    step = f"{state.step}/{state.steps}"
    numbers = [None if best is None else best[1], state.last]
    scores = ["-" if number is None else format(number, ".4f") for number in numbers]
    return (run.job.label, run.phase.value, step, state.metric, *scores, write_time(state.seconds))


def write_time(seconds: float | None) -> str:
    """Return a time as `5:07` or `1:02:03`, or as `-` if unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def write_summary(workdir: pathlib.Path, runs: Sequence[Progress]) -> None:
    """Write the runs to sweep.json and summary.csv in a sweep's folder.

    Runs of another sweep file, or of an earlier version of this one, stay in the files while their directories exist.
    """
    place, entries = workdir / "sweep.json", {}
    with contextlib.suppress(
        UserError, TypeError, KeyError
    ):  # no file yet, or a damaged one: the run directories have everything
        entries = {own["directory"]: own for own in read_json(place)["runs"]}
    entries = {name: own for name, own in entries.items() if (workdir / name).is_dir()}
    entries |= {run.job.workdir.name: _record(run) for run in runs}
    write_atomically(place, json.dumps({"runs": list(entries.values())}, indent=2).encode() + b"\n")
    write_atomically(
        workdir / "summary.csv", _write_csv(list(entries.values()), list_varied([run.job for run in runs]))
    )


def _record(run: Progress) -> dict[str, Any]:
    state, best = run.state, run.state.best
    return {
        "run": run.job.label,
        "directory": run.job.workdir.name,
        "state": run.phase.value,
        "note": run.note,
        "step": state.step,
        "steps": state.steps,
        "metric": state.metric,
        "best": best and best[1],
        "best_step": best and best[0],
        "last": state.last,
        "seconds": state.seconds,
        "fields": dict(run.job.varied),
        "config": run.job.arguments[0].removeprefix("--config="),
    }


def _write_csv(entries: Sequence[dict], varied: Sequence[str]) -> bytes:
    """Return one row per run, with a column for each field in which runs differ."""
    fields = list(dict.fromkeys([*varied, *(field for own in entries for field in own["fields"])]))
    names = [name for name in entries[0] if name not in ("fields", "note")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [[*names, *(field for field in fields if field != "config")]]
    for own in entries:
        rows.append([own[n] for n in names] + [own["fields"].get(f, "") for f in fields if f != "config"])
    writer.writerows([make_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue().encode()
