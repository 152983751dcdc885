"""Ground truth and prediction of examples side by side, with titles and a legend. Images are [H,W,3] uint8 RGB."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from experiments.pictures.font import load_font
from experiments.pictures.legend import Entry, draw_legend, lay_legend
from experiments.pictures.outcomes import judge
from experiments.pictures.palette import INK
from experiments.pictures.scores import describe_none, keep_confident

TILE = 448  # pixels of the longer side of an example; a single image that is larger stays as it is
ROWS_OF_ONE_COLUMN = 4  # more examples than this stand in two columns
Rows = Mapping[str, np.ndarray]  # an example's objects, its detections, or what `judge` returns
# Takes a tile, its scale (vertical, horizontal) to the image's pixels, the rows to draw, and the names of the classes.
Draw = Callable[[Image.Image, tuple[float, float], Rows, Sequence[str]], Image.Image]


class Style(NamedTuple):
    """A way of drawing objects.

    `list_entries` makes the legend of all rows that are drawn, with the least score of detections, None without any.
    """

    draw: Draw
    list_entries: Callable[[Sequence[Rows], Sequence[str], float | None], list[Entry]]


def enlarge(image: np.ndarray, factor: int) -> Image.Image:
    """Return the picture of an image [H,W,3], enlarged by a whole factor."""
    picture = Image.fromarray(image)
    if factor == 1:  # without a copy of a large image
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def draw_tile(image: np.ndarray, rows: Rows, draw: Draw, class_names: Sequence[str], longer: int = TILE) -> Image.Image:
    """Draw the rows of an example over its image, whose longer side becomes `longer` pixels."""
    factor = longer / max(image.shape[:2])
    height, width = (max(1, round(factor * side)) for side in image.shape[:2])
    tile = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return draw(tile, (height / image.shape[0], width / image.shape[1]), rows, class_names)


def draw_pair(
    image: np.ndarray,
    truth: Rows,
    prediction: Rows,
    draw: Draw,
    class_names: Sequence[str],
    least_score: float,
    longer: int = TILE,
) -> tuple[Image.Image, Image.Image]:
    """Draw an example's objects, and its detections from `least_score` on with the objects that they miss.

    Where no detection is drawn, the second tile says why.
    """
    judged = judge(truth, prediction, image.shape[:2], least_score)
    truth_tile, tile = (draw_tile(image, rows, draw, class_names, longer) for rows in (truth, judged))
    remark = describe_none(prediction["scores"], least_score)
    if remark:
        writing, font = ImageDraw.Draw(tile), load_font(max(11, longer // 24))
        width, height = math.ceil(font.getlength(remark)) + int(font.size), int(font.size) * 3 // 2
        writing.rectangle((0, tile.height - height, width, tile.height), fill="white")
        writing.text((int(font.size) // 2, tile.height - height // 2), remark, fill=INK, font=font, anchor="lm")
    return truth_tile, tile


def compare(
    images: Sequence[np.ndarray],
    truths: Sequence[Rows],
    predictions: Sequence[Rows],
    style: Style,
    class_names: Sequence[str],
    least_score: float,
) -> np.ndarray:
    """Draw N examples of any sizes, ground truth and prediction side by side, with the legend below.

    Detections are drawn from `least_score` on, which the title names. Return [H,W,3] uint8.
    """
    tiles = [
        draw_pair(image, truth, prediction, style.draw, class_names, least_score)
        for image, truth, prediction in zip(images, truths, predictions, strict=True)
    ]
    shown = [keep_confident(rows, least_score) for rows in predictions]
    titles = "ground truth", "prediction" + (f", scores of {least_score:g} or more" if least_score else "")
    return arrange(tiles, titles, style.list_entries([*truths, *shown], class_names, least_score))


def arrange(
    examples: Sequence[Sequence[Image.Image | np.ndarray]], titles: Sequence[str], entries: list[Entry]
) -> np.ndarray:
    """Arrange examples of tiles, whose longer side is TILE pixels or less, under `titles`, above the legend of `entries`.

    Return [H,W,3] uint8.
    """
    tiles = [tile if isinstance(tile, Image.Image) else Image.fromarray(tile) for row in examples for tile in row]
    columns, parts = 1 if len(examples) <= ROWS_OF_ONE_COLUMN else 2, len(titles)
    text, gap = 18, 10
    font, panel = load_font(text), parts * (TILE + gap) - gap
    total, title, per_row = columns * panel + (columns + 1) * 2 * gap, 2 * text, parts * columns
    heights = [max(tile.height for tile in tiles[first : first + per_row]) for first in range(0, len(tiles), per_row)]
    tops = [title + sum(heights[:row]) + row * gap for row in range(len(heights) + 1)]
    legend, places = lay_legend(entries, font, total - 4 * gap) if entries else (0, [])
    canvas = Image.new("RGB", (total, tops[-1] + legend + gap), "white")
    writing = ImageDraw.Draw(canvas)
    lefts = [2 * gap + place // parts * (panel + 2 * gap) + place % parts * (TILE + gap) for place in range(per_row)]
    for place, left in enumerate(lefts):
        writing.text((left + TILE // 2, title // 2), titles[place % parts], fill=INK, font=font, anchor="mm")
    for index, tile in enumerate(tiles):
        row, place = divmod(index, per_row)
        canvas.paste(tile, (lefts[place] + (TILE - tile.width) // 2, tops[row] + (heights[row] - tile.height) // 2))
    draw_legend(canvas, (2 * gap, tops[-1]), entries, places, font)
    return np.asarray(canvas)
