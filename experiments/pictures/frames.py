"""Frames of boxes and marks, which show outcomes without colours."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from experiments.pictures.legend import Entry
from experiments.pictures.outcomes import IOU, Outcome
from experiments.pictures.palette import INK, choose_ink

DASH = 3  # lengths of a dash and of the space after it, in widths of its line
DASHES = 7  # dashes and spaces on a short side
SPACE = 2  # length of the space after a dot, in widths of its line
WIDE = 3  # heights of a sample in a legend
CORNER = 4  # sides of a box for each length of its corners, where these alone are drawn

Colour = tuple[int, int, int]


class Sample(Protocol):
    """Draws what an outcome looks like in a legend, `size` pixels high."""

    def __call__(self, outcome: Outcome, size: int) -> Image.Image: ...


def draw_frame(
    draw: ImageDraw.ImageDraw, corners: Sequence[int], line: int, colour: Colour, outcome: Outcome = Outcome.HIT
) -> None:
    """Draw a frame of `line` pixels inside the corners (left, top, right, bottom), with a border that sets it off.

    The frame of a hit is whole, that of a false alarm is dashed, that of a missed object has its corners alone, and that
    of what is not counted is dotted.
    """
    left, top, right, bottom = corners
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    line = min(line, -(-(right - left) // 2), -(-(bottom - top) // 2))
    bars = []
    for start, end in _cut_side(left, right, line, outcome):
        bars += [(start, top, end, top + line), (start, bottom - line, end, bottom)]
    for start, end in _cut_side(top, bottom, line, outcome):
        bars += [(left, start, left + line, end), (right - line, start, right, end)]
    for x, y, end, low in bars:
        draw.rectangle((x - 1, y - 1, end, low), fill=choose_ink(colour))
    for x, y, end, low in bars:
        draw.rectangle((x, y, end - 1, low - 1), fill=colour)


def _cut_side(start: int, end: int, line: int, outcome: Outcome) -> list[tuple[int, int]]:
    """Return the parts of a side from `start` to `end` that are drawn."""
    length = end - start
    if outcome == Outcome.HIT:
        return [(start, end)]
    if outcome == Outcome.MISSED:
        corner = max(line, length // CORNER)
        return [(start, start + corner), (end - corner, end)] if 2 * corner < length else [(start, end)]
    dot = outcome == Outcome.NOT_COUNTED
    drawn = line if dot else max(line, min(DASH * line, length // DASHES))
    step = drawn + (SPACE * line if dot else drawn)
    return [(place, min(place + drawn, end)) for place in range(start, end, step)]


def draw_mark(
    draw: ImageDraw.ImageDraw, outcome: Outcome, middle: tuple[float, float], size: float, ink: str | Colour, line: int
) -> None:
    """Draw the mark of an outcome, `size` pixels large.

    A hit has a check, a false alarm a cross, and a missed object a ring. What is not counted has no mark.
    """
    (x, y), half = middle, size / 2
    if outcome == Outcome.HIT:
        points = ((x - half, y), (x - half / 4, y + half * 0.7), (x + half, y - half * 0.8))
        draw.line(points, fill=ink, width=line, joint="curve")
    elif outcome == Outcome.FALSE_ALARM:
        for sign in (-1, 1):
            draw.line((x - half, y - sign * half, x + half, y + sign * half), fill=ink, width=line)
    elif outcome == Outcome.MISSED:
        draw.ellipse((x - half, y - half, x + half, y + half), outline=ink, width=line)


def draw_frame_sample(outcome: Outcome, size: int) -> Image.Image:
    """Draw a frame with its mark as the swatch of an outcome, `size` pixels high."""
    swatch = Image.new("RGB", (WIDE * size, size), "white")
    draw = ImageDraw.Draw(swatch)
    draw_frame(draw, (1, 1, swatch.width - 1, size - 1), 2, INK, outcome)
    draw_mark(draw, outcome, (swatch.width / 2, size / 2), size * 0.5, INK, 2)
    return swatch


def list_outcomes(every: Iterable[Mapping[str, np.ndarray]], sample: Sample, least_score: float | None) -> list[Entry]:
    """List the legend's entries of the outcomes of the rows that are drawn, each with its `sample`.

    With `least_score` there are predictions, and hits, false alarms and missed objects have an entry. What is not counted
    has one where it occurs.
    """
    kinds, texts = [], {Outcome.NOT_COUNTED: "crowd or difficult: not counted"}
    if least_score is not None:
        kinds += [Outcome.HIT, Outcome.FALSE_ALARM, Outcome.MISSED]
        texts |= {
            Outcome.HIT: f"hit: score {least_score:g} or more, IoU {IOU:g} or more with an object of its class",
            Outcome.FALSE_ALARM: "false alarm: another detection of these scores",
            Outcome.MISSED: "missed: an object without a hit",
        }
    if any((find_outcomes(rows) == Outcome.NOT_COUNTED).any() for rows in every):
        kinds.append(Outcome.NOT_COUNTED)
    return [(functools.partial(sample, kind), texts[kind]) for kind in kinds]


def find_outcomes(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the outcomes [N] of rows that are drawn. Objects without one are drawn as hits, or as not counted."""
    if "outcomes" in rows:
        return rows["outcomes"]
    counted = np.full(len(rows["classes"]), Outcome.HIT)
    if "crowd" in rows:
        counted[rows["crowd"] | rows["difficult"]] = Outcome.NOT_COUNTED
    return counted
