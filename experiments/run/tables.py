"""Tables as text. A table of scores has one row per class, then the overall scores."""

import math
from collections.abc import Mapping, Sequence

from wording import make_printable


def tabulate_classes(scores: Mapping[str, float | None]) -> list[list[str]]:
    """Return a row of titles and one row per class with its scores, as text.

    Returns no rows if there are no per-class scores.
    """
    kinds = list(dict.fromkeys(name.split("/", 1)[0] for name in scores if "/" in name))
    names = list(dict.fromkeys(name.split("/", 1)[1] for name in scores if "/" in name))
    rows = [[name, *(_text(scores.get(f"{kind}/{name}")) for kind in kinds)] for name in names]
    return [["class", *kinds], *rows] if rows else []


def format_table(scores: Mapping[str, float | None]) -> str:
    """Format scores as aligned text, per-class scores first, then overall scores. An undefined score is `-`."""
    rows, whole = tabulate_classes(scores), [name for name in scores if "/" not in name]
    rows = [[make_printable(row[0]), *row[1:]] for row in rows]
    first = max(map(len, [row[0] for row in rows] + whole))
    widths = [max(len(kind), 6) + 2 for kind in (rows[0][1:] if rows else ())]
    lines = [
        f"{row[0]:<{first}}" + "".join(f"{cell or '-':>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for row in rows
    ]
    return "\n".join(lines + [f"{name:<{first}}{format_score(scores[name]):>8}" for name in whole])


def align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows as lines with aligned columns. The first row holds the titles, and numbers align right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [all(cell[:1].isdigit() or cell == "-" for cell in column[1:]) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if to_right else f"{cell:<{width}}"
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


def format_score(value: float | None) -> str:
    """Format a score with four decimals, or `-` if it is undefined."""
    return _text(value) or "-"


def _text(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else format(value, ".4f")
