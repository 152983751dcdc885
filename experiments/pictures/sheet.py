"""A sheet of examples, which is a grid of tiles with a caption above each, and the legend below."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.font import load_font
from experiments.pictures.legend import Entry, draw_legend, lay_legend, measure_entry
from experiments.pictures.palette import INK

WIDTH = 2400  # pixels of a sheet, unless its tiles would be too small
LARGEST, SMALLEST = 448, 112  # pixels of a tile's longer side
GAP = 8
TEXT = 13


class Sheet:
    """A sheet that takes the tiles one by one, in the order of their captions, and then draws all of them."""

    def __init__(self, captions: Sequence[str], *, wide: bool = False):
        """Lay out the sheet. `wide` is for tiles of two pictures. `longer` becomes the longer side of one picture."""
        self.captions, self.parts = captions, 2 if wide else 1
        square = max(1, math.ceil(math.sqrt(len(captions) / self.parts)))
        # The number that leaves fewer places empty.
        self.columns = min(square, square + 1, key=lambda columns: -len(captions) % columns)
        self.longer = min(LARGEST, max(SMALLEST, WIDTH // (self.columns * self.parts)))
        self.tiles: list[np.ndarray] = []

    def add(self, tile: np.ndarray) -> None:
        """Add the next tile, [H,W,3] uint8."""
        self.tiles.append(tile)

    def draw(self, entries: list[Entry]) -> np.ndarray:
        """Draw the tiles, and the legend of `entries`. Return [H,W,3] uint8."""
        font, caption = load_font(TEXT), TEXT * 3 // 2
        rows = [self.tiles[first : first + self.columns] for first in range(0, len(self.tiles), self.columns)]
        widths = [max(row[place].shape[1] for row in rows if place < len(row)) for place in range(len(rows[0]))]
        lefts = np.cumsum([GAP, *(width + GAP for width in widths)]).tolist()
        tops = np.cumsum([GAP, *(max(tile.shape[0] for tile in row) + caption + GAP for row in rows)]).tolist()
        legend, places = lay_legend(entries, font, lefts[-1] - 2 * GAP) if entries else (0, [])
        needed = max((measure_entry(entry, font) for entry in entries), default=0) + 2 * GAP
        canvas = Image.new("RGB", (max(lefts[-1], needed), tops[-1] + legend + (GAP if entries else 0)), "white")
        drawing = ImageDraw.Draw(canvas)
        for number, (tile, words) in enumerate(zip(self.tiles, self.captions, strict=True)):
            row, column = divmod(number, self.columns)
            left, top = lefts[column], tops[row]
            fitting = shorten(words, widths[column], font)
            drawing.text((left, top + caption // 2), fitting, fill=INK, font=font, anchor="lm")
            canvas.paste(Image.fromarray(tile), (left, top + caption))
        draw_legend(canvas, (GAP, tops[-1]), entries, places, font)
        return np.asarray(canvas)


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Return the text, without its middle if it is wider than `width` pixels. Names differ at their ends."""
    kept = len(text)
    shown = text
    while font.getlength(shown) > width and kept > 1:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shown
