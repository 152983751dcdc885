"""Pictures of boxes over an image, and of predictions next to the ground truth.

Images are [H,W,3] uint8 RGB, boxes [N,4] (top, left, bottom, right) in their pixels.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from experiments.pictures.font import load_font
from experiments.pictures.frames import draw_frame, draw_frame_sample, draw_mark, find_outcomes, list_outcomes
from experiments.pictures.legend import Entry, list_classes
from experiments.pictures.outcomes import Outcome
from experiments.pictures.pairs import TILE, Rows, Style, compare, enlarge
from experiments.pictures.palette import choose_ink, class_colour


def draw_boxes(image: np.ndarray, rows: Rows, class_names: Sequence[str]) -> np.ndarray:
    """Draw boxes over an image in the colours of their classes, each with the name of its class and its score.

    `rows` are as in `draw_box_rows`. A small image is enlarged by a whole factor, so that names can be read. Return
    [H,W,3] uint8.
    """
    factor = max(1, TILE // max(image.shape[:2]))
    return np.asarray(draw_box_rows(enlarge(image, factor), (factor, factor), rows, class_names))


def draw_box_rows(tile: Image.Image, scale: tuple[float, float], rows: Rows, class_names: Sequence[str]) -> Image.Image:
    """Draw boxes [N,4] on a tile of `scale` (vertical, horizontal), each with its class, and its score if it has one.

    The frame is that of the box's outcome, and so is the mark before its name; objects that are drawn without an outcome
    have no mark. No name hides another one, as far as there is room.
    """
    draw, outcomes = ImageDraw.Draw(tile), find_outcomes(rows)
    text = max(13, round(math.sqrt(tile.width * tile.height) / 32))
    font, line = load_font(text), max(3, text // 6)
    scores = rows["scores"] if "scores" in rows else np.full(len(outcomes), np.nan)
    classes: list[int] = rows["classes"].tolist()
    order: list[int] = np.argsort(-scores, kind="stable").tolist()  # the most certain first, those without a score last
    corners = (rows["boxes"] * (scale * 2)).round().astype(int)[:, [1, 0, 3, 2]].tolist()
    for index in order[::-1]:  # the most certain on top
        draw_frame(draw, corners[index], line, class_colour(classes[index]), Outcome(outcomes[index]))
    taken: list[tuple[int, int, int, int]] = []
    for index in order:  # the most certain one chooses its place first
        name = class_names[classes[index]] + ("" if np.isnan(scores[index]) else f" {scores[index]:.2f}")
        marked = "outcomes" in rows and outcomes[index] != Outcome.NOT_COUNTED
        wide = math.ceil(font.getlength(name)) + text // 2 + marked * text
        place = left, top, right, bottom = _place_name(corners[index], (wide, text * 5 // 4), tile.size, taken)
        taken.append(place)
        colour, middle = class_colour(classes[index]), (top + bottom) / 2
        ink = choose_ink(colour)
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        if marked:
            draw_mark(draw, Outcome(outcomes[index]), (left + text * 0.65, middle), text * 0.6, ink, max(2, text // 9))
        draw.text((left + text // 4 + marked * text, middle), name, fill=ink, font=font, anchor="lm")
    return tile


def _place_name(
    corners: Sequence[int], name: tuple[int, int], size: tuple[int, int], taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """Choose where (left, top, right, bottom) a name of the size `name` (width, height) goes in a picture of `size`.

    It goes to the corners of its box, outside first, off the `taken` places.
    """
    left, top, right, bottom = corners
    wide, high = name
    places = []
    for y in (top - high, top, bottom, bottom - high):
        for x in (left, right - wide):
            x, y = (max(0, min(value, limit)) for value, limit in ((x, size[0] - wide), (y, size[1] - high)))
            places.append((x, y, x + wide, y + high))

    def hidden(place: tuple[int, int, int, int]) -> int:
        return sum(
            max(0, min(place[2], other[2]) - max(place[0], other[0]))
            * max(0, min(place[3], other[3]) - max(place[1], other[1]))
            for other in taken
        )

    return min(places, key=hidden)


def list_box_entries(every: Sequence[Rows], class_names: Sequence[str], least_score: float | None) -> list[Entry]:
    """List the legend's entries of the classes and the outcomes that are drawn."""
    classes = list_classes((rows["classes"] for rows in every), class_names)
    return classes + list_outcomes(every, draw_frame_sample, least_score)


BOXES = Style(draw_box_rows, list_box_entries)


def compare_boxes(
    images: Sequence[np.ndarray],
    truths: Sequence[Mapping[str, np.ndarray]],
    predictions: Sequence[Mapping[str, np.ndarray]],
    class_names: Sequence[str],
    least_score: float = 0.0,
) -> np.ndarray:
    """Draw N examples of any sizes, ground truth and prediction side by side, with the legend below.

    `truths` have boxes, classes, crowd and difficult; `predictions` have boxes, classes and scores, and are drawn from
    `least_score` on. Hits, false alarms and missed objects, see `judge`, have other frames and marks. Crowds and difficult
    objects are dotted. The legend has the classes that are drawn, and explains the frames. Return [H,W,3] uint8.
    """
    return compare(images, truths, predictions, BOXES, class_names, least_score)
