"""The contents of a comparison's page, fit for JSON."""

import datetime
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.compare.columns import Column, list_columns
from experiments.compare.curves import encode, find_hours, read_columns, thin
from experiments.compare.gallery import collect_examples, write_colour
from experiments.compare.groups import Group, Spread, count_states, describe, spread
from experiments.compare.recall import collect_recall
from experiments.compare.runs import Run, is_number, is_smaller_better
from experiments.compare.significance import Verdict
from experiments.pictures.palette import OKABE_ITO, luminance
from experiments.run.spread import find_half_width
from experiments.sweep.naming import write_value

LIGHT, DARK = (255, 255, 255), (22, 24, 29)  # backgrounds of charts, by theme
CONTRAST = 3.0  # of a line and its background, from the web's guidelines (WCAG 2.1, 1.4.11)
Cell = list  # of a table: its text and its sort key


def collect(groups: Sequence[Group], metric: str, verdicts: Sequence[Verdict], price: float | None) -> dict[str, Any]:
    """Collect everything that the page shows. `price` is that of a device-hour, None for no costs."""
    runs = [run for group in groups for run in group.runs]
    ends = list(itertools.accumulate((len(group.runs) for group in groups), initial=0))
    numbers = [list(range(*span)) for span in itertools.pairwise(ends)]
    shown = [own[find_best_run(group, metric)] for group, own in zip(groups, numbers, strict=True)]
    return {
        "written": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "metric": metric,
        "smaller": is_smaller_better(metric),
        "colours": {"light": choose_colours(LIGHT), "dark": choose_colours(DARK)},
        "halves": [find_half_width(count) for count in range(2, max(map(len, numbers), default=0) + 1)],
        "groups": [
            {"name": group.name, "runs": own, "shown": best}
            for group, own, best in zip(groups, numbers, shown, strict=True)
        ],
        "runs": [describe_run(run, metric) for run in runs],
        "summary": summarise(groups, metric, price),
        "verdicts": [
            {"text": own.describe(), "images": own.images, "draws": own.draws, "seeds": own.seeds} for own in verdicts
        ],
        "fields": list_fields(groups),
        "curves": collect_curves(groups, numbers),
        "classes": collect_classes(groups, metric),
        "recall": collect_recall([(number, runs[number]) for number in shown]),
        "examples": collect_examples([(number, runs[number]) for number in shown]),
    }


def find_best_run(group: Group, metric: str) -> int:
    """Return the place of the run with the best score in a group, or 0 if no run has one."""
    best = [run.best_value(metric) for run in group.runs]
    sign = 1 if is_smaller_better(metric) else -1
    keys = [math.inf if score is None else sign * score for score in best]
    return keys.index(min(keys))


def choose_colours(ground: tuple[int, int, int]) -> list[str]:
    """Return colours that every kind of colour vision can distinguish, with enough contrast to `ground`.

    They are the colours of Okabe and Ito, made darker or lighter. Yellow is left out, because it turns brown on white.
    """
    goal = 0.0 if luminance(ground) > 0.5 else 255.0
    found = []
    for colour in OKABE_ITO[:6]:
        mixes = (np.round((1 - share) * np.array(colour) + share * goal).astype(int) for share in np.linspace(0, 1, 41))
        found.append(next(tuple(mix.tolist()) for mix in mixes if find_contrast(mix, ground) >= CONTRAST))
    return [write_colour(colour) for colour in found]


def find_contrast(colour: Sequence[int], other: Sequence[int]) -> float:
    """Return the contrast of two colours, from 1 to 21, by the definition of the web's guidelines."""
    low, high = sorted((luminance(colour), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def describe_run(run: Run, metric: str) -> dict[str, Any]:
    """Return the state of a run and the circumstances in which it was made."""
    hours = find_hours(run)
    return {
        "name": run.name,
        "state": run.state,
        "step": run.step,
        "steps": run.steps,
        "batch": run.field("train.batch_size"),
        "hours": hours and [encode(hours[0], "<u4"), encode(hours[1], "<f4")],
        "best": run.best_value(metric),
        "problems": run.problems,
        "made": {title: " · ".join(texts) for title, texts in list_makers(run).items()},
    }


def list_makers(run: Run) -> dict[str, list[str]]:
    """List the commit, devices, data and versions of a run by title. Sessions that differ are all listed."""
    made: dict[str, dict[str, None]] = {}
    for session in run.sessions:
        for title, text in _describe_session(session):
            made.setdefault(title, {})[text] = None
    return {title: list(texts) for title, texts in made.items()} | {"sessions": [str(len(run.sessions))]}


def _describe_session(session: dict) -> Iterator[tuple[str, str]]:
    def part(name: str) -> dict:
        value = session.get(name)
        return value if isinstance(value, dict) else {}

    git, devices = part("git"), part("devices")
    if git:
        yield "commit", str(git.get("commit"))[:12] + (" and uncommitted changes" if git.get("dirty") else "")
    if devices:
        processes = f" in {devices['processes']} processes" if devices.get("processes", 1) != 1 else ""
        yield "devices", f"{devices.get('count')} x {devices.get('kind')}{processes}"
    for name in ("data", "seeds"):
        yield name, ", ".join(f"{key} {value}" for key, value in part(name).items()) or "-"
    if isinstance(session.get("parameters"), int):
        yield "parameters", f"{session['parameters']:,}"
    python = [f"Python {session['python']}"] if "python" in session else []
    yield "versions", ", ".join(python + [f"{name} {version}" for name, version in part("packages").items()]) or "-"
    if "platform" in session:
        yield "machine", str(session["platform"])
    yield "trained", f"{session.get('started')} to {session.get('updated', '?')}"


def summarise(groups: Sequence[Group], metric: str, price: float | None) -> dict[str, Any]:
    """Return the columns of the summary (title, meaning) and its rows of cells. Numbers of several runs are means."""
    (best, *others), first = list_columns(metric, price), [("method", "runs that differ only in their seeds")]
    columns = [*first, ("seeds", "number of runs of the method"), best[:2], ("at step", "step of the best value")]
    columns += [*(own[:2] for own in others), ("state", "state of the runs")]
    rows = []
    for group in groups:
        steps = (found[0] for run in group.runs if (found := run.best(metric)))
        state = count_states(group)
        rows.append(
            [
                [group.name, group.name],
                [str(len(group.runs)), len(group.runs)],
                _measure(best, group),
                _write(spread(steps), ".0f"),
                *(_measure(own, group) for own in others),
                [state + (", with problems" if any(run.problems for run in group.runs) else ""), state],
            ]
        )
    return {"columns": columns, "rows": rows, "best": 2}


def _measure(column: Column, group: Group) -> Cell:
    """Make the cell of a group in a column, a score with its interval or another number as a mean."""
    found = spread(map(column.measure, group.runs))
    if column.score:
        return [describe(found), None if found is None else found.mean]
    return _write(found, "#.3g")


def _write(found: Spread | None, kind: str) -> Cell:
    """Make a cell with a mean. Large numbers keep all digits before the point, even if their format has fewer."""
    return ["-", None] if found is None else [format(found.mean, kind if abs(found.mean) < 100 else ",.0f"), found.mean]


def list_fields(groups: Sequence[Group]) -> dict[str, Any]:
    """List the fields of the groups' configs, with the texts of their values and the index of each group's text.

    The index is -1 if a group lacks the field. `varied` are the fields in which the groups differ, without seeds and settings
    that do not change results.
    """
    configs = [group.runs[0].config for group in groups]
    names = sorted({name for config in configs for name in config})
    fields = []
    for name in names:
        texts = dict.fromkeys(write_field(config[name]) for config in configs if name in config)
        places = {text: place for place, text in enumerate(texts)}
        own = [places[write_field(config[name])] if name in config else -1 for config in configs]
        fields.append({"name": name, "texts": list(texts), "groups": own})
    varied = dict.fromkeys(name for group in groups for name in group.fields)
    return {"all": fields, "varied": [names.index(name) for name in varied if name in names]}


def write_field(value: Any) -> str:
    """Return the value of a field as text. Words in a list are separated by commas."""
    if isinstance(value, list) and any(isinstance(item, str) for item in value):
        return ", ".join(map(str, value))
    return write_value(value)


def collect_curves(groups: Sequence[Group], numbers: Sequence[Sequence[int]]) -> dict[str, dict[int, list[str]]]:
    """Return the curves by name and by run, each with steps and values, and with middles and means if thinned."""
    curves: dict[str, dict[int, list[str]]] = {}
    for group, own in zip(groups, numbers, strict=True):
        columns = [read_columns(run) for run in group.runs]
        for name in dict.fromkeys(name for column in columns for name in column):
            having = [number for number, column in zip(own, columns, strict=True) if name in column]
            thinned = thin([column[name] for column in columns if name in column])
            for number, curve in zip(having, thinned, strict=True):
                parts = [(curve.steps, "<u4"), (curve.values, "<f4"), (curve.middles, "<f4"), (curve.means, "<f4")]
                curves.setdefault(name, {})[number] = [encode(part, kind) for part, kind in parts if part is not None]
    return curves


def collect_classes(groups: Sequence[Group], metric: str) -> dict[str, dict[str, list]]:
    """Return the spread of each group's val/KIND/CLASS by kind and class, as mean, low and high, or None.

    The scores of a run come from the step with its best `metric`.
    """
    rows = []
    for group in groups:
        steps = [run.best(metric) for run in group.runs]
        found = [
            next((row for row in run.rows if best and row["step"] == best[0]), {})
            for run, best in zip(group.runs, steps, strict=True)
        ]
        rows.append(found)
    names = dict.fromkeys(name for own in rows for row in own for name in row if name.count("/") > 1)
    kinds: dict[str, dict[str, list]] = {}
    for name in names:
        section, kind, class_name = name.split("/", 2)
        spreads = [spread(_read_score(row, name) for row in own) for own in rows]
        if section == "val" and any(spreads):
            kinds.setdefault(kind, {})[class_name] = [own and [own.mean, own.low, own.high] for own in spreads]
    return kinds


def _read_score(row: dict, name: str) -> float | None:
    value = row.get(name)
    return float(value) if is_number(value) else None
