"""Objects of examples: ground truth and prediction side by side. Images are [H,W,3] uint8 RGB."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.legend import ROWS_OF_ONE_COLUMN, draw_legend, lay_legend
from experiments.pictures.palette import INK

TILE = 448  # pixels of the longer side of an example with objects; alone, larger ones stay as they are
Rows = Mapping[str, np.ndarray]  # an example's objects, or its detections
# Takes a tile, its scale (vertical, horizontal) to the image's pixels, the rows to draw, and the names of the classes.
Draw = Callable[[Image.Image, tuple[float, float], Rows, Sequence[str]], Image.Image]


def draw_tile(image: np.ndarray, rows: Rows, draw: Draw, class_names: Sequence[str], longer: int = TILE) -> Image.Image:
    """Draw the rows of an example over its image, whose longer side becomes `longer` pixels."""
    factor = longer / max(image.shape[:2])
    height, width = (max(1, round(factor * side)) for side in image.shape[:2])
    tile = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return draw(tile, (height / image.shape[0], width / image.shape[1]), rows, class_names)


def compare(
    images: Sequence[np.ndarray],
    truths: Sequence[Rows],
    predictions: Sequence[Rows],
    draw: Draw,
    class_names: Sequence[str],
    entries: list[tuple[int | None, str]],
) -> np.ndarray:
    """Draw N examples of any sizes: ground truth and prediction side by side, the legend of `entries` below.

    Returns [H,W,3] uint8.
    """
    columns = 1 if len(images) <= ROWS_OF_ONE_COLUMN else 2
    text, gap = 18, 10
    font, panel = ImageFont.load_default(size=text), 2 * TILE + gap
    total, title = columns * panel + (columns + 1) * 2 * gap, 2 * text
    tiles = [
        draw_tile(image, rows, draw, class_names)
        for image, *pair in zip(images, truths, predictions, strict=True)
        for rows in pair
    ]
    per_row = 2 * columns
    heights = [max(tile.height for tile in tiles[first : first + per_row]) for first in range(0, len(tiles), per_row)]
    tops = [title + sum(heights[:row]) + row * gap for row in range(len(heights) + 1)]
    legend, places = lay_legend(entries, font, total - 4 * gap) if entries else (0, [])
    canvas = Image.new("RGB", (total, tops[-1] + legend + gap), "white")
    writing = ImageDraw.Draw(canvas)
    lefts = [2 * gap + place // 2 * (panel + 2 * gap) + place % 2 * (TILE + gap) for place in range(per_row)]
    for place, left in enumerate(lefts):
        name = ("ground truth", "prediction")[place % 2]
        writing.text((left + TILE // 2, title // 2), name, fill=INK, font=font, anchor="mm")
    for index, tile in enumerate(tiles):
        row, place = divmod(index, per_row)
        canvas.paste(tile, (lefts[place] + (TILE - tile.width) // 2, tops[row] + (heights[row] - tile.height) // 2))
    draw_legend(canvas, (2 * gap, tops[-1]), entries, places, font)
    return np.asarray(canvas)
