"""What pictures of examples share: their columns, and the legend of their classes."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.palette import INK, class_colour, colour_mask
from input_pipeline.batch import IGNORE

ROWS_OF_ONE_COLUMN = 4  # more examples than this stand in two columns


Entry = tuple[int | None, str]  # a class's index, None for pixels without a class, and what it says


def list_classes(present: Iterable[np.ndarray], class_names: Sequence[str]) -> list[Entry]:
    """List the entries of the classes whose indices are `present`, in arrays of any shape; 255 means unlabelled."""
    every = sorted({index for indices in present for index in np.unique(indices).tolist()})
    return [(index, class_names[index]) if index < len(class_names) else (None, "no label") for index in every]


def lay_legend(entries: list[Entry], font: ImageFont.FreeTypeFont, width: int) -> tuple[int, list[tuple[int, int]]]:
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
    entries: list[Entry],
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


def add_strip(picture: np.ndarray, entries: list[Entry], remark: str = "") -> np.ndarray:
    """Put a strip with a remark and a legend below a picture [H,W,3], which stays as it is at the top left.

    A picture that is too narrow for the words gets a white margin at its right. Returns [H,W,3] uint8.
    """
    height, width = picture.shape[:2]
    text = max(13, round(math.sqrt(height * width) / 48))
    font = ImageFont.load_default(size=text)
    words = [3 * text + font.getlength(name) for _, name in entries] + [text + font.getlength(remark)]
    total = max(width, math.ceil(max(words)))
    top = text * 7 // 4 if remark else 0
    legend, places = lay_legend(entries, font, total) if entries else (0, [])
    strip = Image.new("RGB", (total, top + legend + text // 2), "white")
    if remark:
        ImageDraw.Draw(strip).text((text // 2, top // 2), remark, fill=INK, font=font, anchor="lm")
    draw_legend(strip, (text // 2, top), entries, places, font)
    drawn = np.full((height + strip.height, total, 3), 255, np.uint8)  # once: the picture may be large
    drawn[:height, :width], drawn[height:] = picture, np.asarray(strip)
    return drawn
