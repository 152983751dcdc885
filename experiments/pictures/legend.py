"""The legend of a picture, which explains its colours and marks."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.font import load_font
from experiments.pictures.palette import INK, class_colour, colour_mask, find_background
from input_pipeline.batch import IGNORE

# A class's index, None for pixels without a class, or a function that draws a picture of some pixels' height.
Swatch = int | None | Callable[[int], Image.Image]
Entry = tuple[Swatch, str]  # with what it means


def list_classes(present: Iterable[np.ndarray], class_names: Sequence[str]) -> list[Entry]:
    """List the entries of the classes whose indices are `present`, in arrays of any shape. 255 means unlabelled."""
    entries: list[Entry] = []
    every: set[int] = {index for indices in present for index in np.unique(indices).tolist()}
    for index in sorted(every):
        entries.append((index, class_names[index]) if index < len(class_names) else (None, "no label"))
    return entries


def count_classes(classes: np.ndarray, class_names: Sequence[str]) -> list[Entry]:
    """List the entries of the `classes` [N] of objects, each with its number of objects."""
    every, counts = np.unique(classes, return_counts=True)
    return [
        (index, f"{class_names[index]}: {count}") for index, count in zip(every.tolist(), counts.tolist(), strict=True)
    ]


def list_label_classes(present: Iterable[np.ndarray], class_names: Sequence[str]) -> list[Entry]:
    """List the entries of label maps as `list_classes` does, the background, if there is one, without a colour."""
    entries, background = list_classes(present, class_names), find_background(class_names)
    if background is None:
        return entries
    return [(draw_empty, f"{name} (not coloured)") if own == background else (own, name) for own, name in entries]


def draw_empty(size: int) -> Image.Image:
    """Draw the swatch of a class without a colour, a white square with a thin frame."""
    swatch = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(swatch).rectangle((0, 0, size - 1, size - 1), outline=INK)
    return swatch


def lay_legend(entries: list[Entry], font: ImageFont.FreeTypeFont, width: int) -> tuple[int, list[tuple[int, int]]]:
    """Return the height of the legend, and the place (x, y) of each entry in lines of at most `width` pixels."""
    x, y, places = 0, int(font.size) // 2, []
    for entry in entries:
        needed = measure_entry(entry, font)
        if x and x + needed > width:
            x, y = 0, y + int(font.size) * 3 // 2
        places.append((x, y))
        x += needed
    return y + int(font.size) * 3 // 2, places


def measure_entry(entry: Entry, font: ImageFont.FreeTypeFont) -> int:
    """Return the width of an entry, with the space after it, in pixels."""
    swatch, name = entry
    size = int(font.size)
    return (swatch(size).width if callable(swatch) else size) + int(size * 2 + font.getlength(name))


def draw_legend(
    canvas: Image.Image,
    start: tuple[int, int],
    entries: list[Entry],
    places: list[tuple[int, int]],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Draw the swatches and the names of `entries` at their `places`, counted from `start` (x, y). None is hatched."""
    draw, size = ImageDraw.Draw(canvas), int(font.size)
    for (swatch, name), (x, y) in zip(entries, places, strict=True):
        left, top = start[0] + x, start[1] + y
        if swatch is None:
            picture = Image.fromarray(colour_mask(np.full((size, size), IGNORE, np.uint8)))
        elif isinstance(swatch, int):
            picture = Image.new("RGB", (size, size), class_colour(swatch))
        else:
            picture = swatch(size)
        canvas.paste(picture, (left, top))
        draw.text((left + picture.width + size // 2, top + size // 2), name, fill=INK, font=font, anchor="lm")


def add_strip(picture: np.ndarray, entries: list[Entry], remark: str = "") -> np.ndarray:
    """Put a strip with a remark and a legend below a picture [H,W,3], whose pixels stay at the top left.

    A picture that is too narrow for the text gets a white margin at its right. Return [H,W,3] uint8.
    """
    height, width = picture.shape[:2]
    text = max(13, round(math.sqrt(height * width) / 48))
    font = load_font(text)
    words = [text + measure_entry(entry, font) for entry in entries] + [text + font.getlength(remark)]
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
