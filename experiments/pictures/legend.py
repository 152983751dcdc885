"""What pictures of examples share: their columns, and the legend of their classes."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.palette import INK, class_colour, colour_mask
from input_pipeline.batch import IGNORE

ROWS_OF_ONE_COLUMN = 4  # more examples than this stand in two columns


def lay_legend(
    entries: list[tuple[int | None, str]], font: ImageFont.FreeTypeFont, width: int
) -> tuple[int, list[tuple[int, int]]]:
    """Return the height of the legend, and the place (x, y) of each entry in lines of at most `width` pixels."""
    x, y, places = 0, int(font.size) // 2, []
    for _, name in entries:
        needed = int(font.size * 3 + font.getlength(name))
        if x and x + needed > width:
            x, y = 0, y + int(font.size) * 3 // 2
        places.append((x, y))
        x += needed
    return y + int(font.size) * 3 // 2, places


def draw_legend(
    canvas: Image.Image,
    start: tuple[int, int],
    entries: list[tuple[int | None, str]],
    places: list[tuple[int, int]],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Draw the colours and the names of `entries` at their `places`, counted from `start` (x, y); None is hatched."""
    draw, size = ImageDraw.Draw(canvas), int(font.size)
    for (index, name), (x, y) in zip(entries, places, strict=True):
        left, top = start[0] + x, start[1] + y
        if index is None:
            canvas.paste(Image.fromarray(colour_mask(np.full((size, size), IGNORE, np.uint8))), (left, top))
        else:
            canvas.paste(class_colour(index), (left, top, left + size, top + size))
        draw.text((left + size * 3 // 2, top + size // 2), name, fill=INK, font=font, anchor="lm")
