"""Tables of groups with their scores and costs, or of one score by two fields, as text, CSV or LaTeX."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from errors import UserError
from experiments.compare.columns import list_columns
from experiments.compare.groups import IGNORED, Group, Spread, count_states, describe, spread
from experiments.run.config_file import FREE
from experiments.sweep.naming import shorten, write_value
from wording import make_cell, make_printable

MOST_COLUMNS = 6  # fields in the table itself; more fields get a separate table below

Cell = str | int | float | Spread | None


class Table(NamedTuple):
    """A header, and rows of cells below it."""

    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


def summarise(groups: Sequence[Group], metric: str, price: float | None = None, fields: bool = True) -> Table:
    """Make a row per group with its fields, the best and last value of `metric`, time, throughput and cost.

    Numbers of several runs become their spread. `price` is that of a device-hour. With `fields` False the fields are left out.
    """
    varied = _list_fields(groups) if fields else []
    short = shorten(varied)
    columns = list_columns(metric, price)
    rows = [
        (
            group.name,
            len(group.runs),
            count_states(group),
            *(_write_field(group, field) for field in varied),
            *(spread(map(column.measure, group.runs)) for column in columns),
        )
        for group in groups
    ]
    titles = (column.title for column in columns)
    return Table(("run", "seeds", "state", *(short[field] for field in varied), *titles), rows)


def list_differences(groups: Sequence[Group]) -> Table:
    """Make a row per field in which the groups differ, and a column per group."""
    rows = [(field, *(_write_field(group, field) for group in groups)) for field in _list_fields(groups)]
    return Table(("field", *(group.name for group in groups)), rows)


def has_few_fields(groups: Sequence[Group]) -> bool:
    """Return whether the fields in which the groups differ fit into the table of the groups."""
    return len(_list_fields(groups)) <= MOST_COLUMNS


def pivot(groups: Sequence[Group], metric: str, rows: Sequence[str], columns: Sequence[str], last: bool) -> Table:
    """Make the table of a paper with the best value of `metric`, or the last, by the fields `rows` and `columns`.

    Raise UserError if no run has a field, if a field differs within groups, or if two groups share a cell.
    """
    for field in (*rows, *columns):
        if field.startswith(IGNORED) or field in FREE:
            raise UserError(
                f"--rows, --columns: runs that differ only in {field} are one row, with their mean; choose another field"
            )
        if not any(field in run.config for group in groups for run in group.runs):
            raise UserError(
                f"--rows, --columns: no run has the field {field!r}; write a field as in --config.{field}, without --config"
            )
    cells: dict[tuple[str, str], tuple[Group, Spread | None]] = {}
    for group in groups:
        place = _place(group, rows), _place(group, columns)
        if place in cells:
            others = [field for field in _list_fields([cells[place][0], group]) if field not in (*rows, *columns)]
            others = [field for field in others if cells[place][0].fields.get(field) != group.fields.get(field)]
            raise UserError(
                f"{cells[place][0].name} and {group.name} share the cell {place[0]}, {place[1]}: they differ in "
                f"{', '.join(others[:5]) or 'no field'}; add a field to --rows or --columns, or leave runs out"
            )
        values = (run.last(metric) if last else run.best_value(metric) for run in group.runs)
        cells[place] = group, spread(values)
    names = list(dict.fromkeys(row for row, _ in cells)), list(dict.fromkeys(column for _, column in cells))
    body = [(row, *(cells.get((row, column), (None, None))[1] for column in names[1])) for row in names[0]]
    return Table((", ".join(rows), *names[1]), body)


def write_text(table: Table) -> str:
    """Return a table as text with aligned columns."""
    rows = [tuple(map(_text, row)) for row in (table.header, *table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def write_csv(table: Table) -> str:
    """Return a table as CSV with all digits. Spreads have two more columns for the ends of the interval."""
    spreads = [any(_has_interval(row[column]) for row in table.rows) for column in range(len(table.header))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = (
        [name, f"{name} low", f"{name} high"] if wide else [name]
        for name, wide in zip(table.header, spreads, strict=True)
    )
    writer.writerow([make_cell(name) for names in header for name in names])
    for row in table.rows:
        writer.writerow([value for cell, wide in zip(row, spreads, strict=True) for value in _values(cell, wide)])
    return text.getvalue().rstrip("\n")


def write_latex(table: Table) -> str:
    """Return a table in LaTeX with the package booktabs."""
    names = " & ".join(_escape(_text(name)) for name in table.header)
    rows = [" & ".join(_escape(_text(cell)).replace("±", r"$\pm$") for cell in row) + r" \\" for row in table.rows]
    columns = "l" + "r" * (len(table.header) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", names + r" \\", r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


def _has_interval(cell: Cell) -> bool:
    return isinstance(cell, Spread) and cell.count > 1


def _list_fields(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(field for group in groups for field in group.fields))


def _write_field(group: Group, field: str) -> str:
    return write_value(group.fields[field]) if field in group.fields else ""


def _place(group: Group, fields: Sequence[str]) -> str:
    config: Mapping[str, Any] = group.runs[0].config
    return ", ".join(write_value(config[field]) if field in config else "-" for field in fields) or "all"


def _text(cell: Cell) -> str:
    if isinstance(cell, Spread):
        size = abs(cell.mean)
        digits = 4 if size < 10 else 1 if size < 1000 else 0
        return describe(cell, digits)
    return "-" if cell is None else make_printable(str(cell))


def _values(cell: Cell, wide: bool) -> list[Any]:
    if isinstance(cell, Spread):
        ends = [None if math.isnan(end) else end for end in (cell.low, cell.high)]
        return [cell.mean, *ends] if wide else [cell.mean]
    return [make_cell(cell) if isinstance(cell, str) else cell, *([None, None] if wide else [])]


def _escape(text: str) -> str:
    special = {character: rf"\{character}" for character in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(character, character) for character in text)
