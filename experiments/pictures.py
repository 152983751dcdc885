"""Pictures of label maps and boxes: a fixed palette, overlays on the image, predictions beside the truth, and scores.

Images are [H,W,3] uint8 RGB, label maps [H,W] uint8 with a class index in each pixel and 255 where there is none, boxes
(top, left, bottom, right) in pixels.
"""

import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from files import write_atomically
from input_pipeline.batch import IGNORE

HATCH = ((148, 148, 148), (196, 196, 196))  # stripes of the pixels without a class
OPACITY = 0.6  # of a class colour over the grey image
SMALLEST_TILE = 192  # pixels of the shorter side; smaller images are enlarged by a whole factor
LARGEST_TILE = 768  # pixels of the longer side that enlarging does not exceed
ROWS_OF_ONE_COLUMN = 4  # more examples than this stand in two columns
MOST_NUMBERED_CLASSES = 40  # a confusion matrix of more has colours alone
SHADES = ((247, 251, 255), (92, 158, 208), (8, 40, 96))  # 0, 50 and 100 percent: darker is more, in grey as well
LIGHT = 0.65  # the part from which on a shade is so dark that white is read better on it
INK = (60, 60, 60)

# Okabe and Ito's colours, told apart with every common kind of colour blindness; "Color Universal Design", 2008.
OKABE_ITO = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66))

# Linear RGB as seen without the red, and without the green cones: Vienot, Brettel and Mollon, 1999.
PROTANOPIA = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
DEUTERANOPIA = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))

# Linear RGB to the cones, and their cube roots to lightness and two opponent colours: Ottosson, "Oklab", 2020.
CONES = ((0.412221, 0.536333, 0.051446), (0.211903, 0.680700, 0.107397), (0.088302, 0.281719, 0.629979))
OKLAB = ((0.210454, 0.793618, -0.004072), (1.977998, -2.428592, 0.450594), (0.025904, 0.782772, -0.808676))


@functools.cache
def palette() -> np.ndarray:
    """[256,3] uint8: the colour of each class index, one and the same in every run. Index 255, no class, is grey.

    After Okabe and Ito's comes, one by one, the colour farthest from all before it, with any kind of colour vision.
    """
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(OKABE_ITO)] = OKABE_ITO
    colours[IGNORE] = np.mean(HATCH, axis=0)
    levels = np.linspace(0, 255, 12).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    seen = _appearance(candidates)
    distance = np.full(len(candidates), np.inf)
    # Black and white are left to the dark and the light parts of the image under an overlay.
    for colour in (*OKABE_ITO, *HATCH, (0, 0, 0), (255, 255, 255)):
        distance = np.minimum(distance, _distance(seen, _appearance(np.array([colour], float))))
    for index in range(len(OKABE_ITO), IGNORE):
        farthest = int(np.argmax(distance))
        colours[index] = candidates[farthest]
        distance = np.minimum(distance, _distance(seen, seen[:, farthest : farthest + 1]))
    colours.flags.writeable = False
    return colours


def class_colour(index: int) -> tuple[int, int, int]:
    """Of an object's class, of which there may be any number: after 255 the colours come again, and grey is none's."""
    return tuple(palette()[index % IGNORE].tolist())


def _appearance(colours: np.ndarray) -> np.ndarray:
    """[3,N,3] Oklab coordinates of [N,3] sRGB colours: with all cones, without the red, without the green ones."""
    value = colours / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    views = np.stack([linear, linear @ np.transpose(PROTANOPIA), linear @ np.transpose(DEUTERANOPIA)])
    return np.cbrt(np.maximum(views, 0) @ np.transpose(CONES)) @ np.transpose(OKLAB)


def _distance(colours: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N]: the smallest distance over the kinds of vision; the plain one counts most, for most people have it."""
    return np.min(np.linalg.norm(colours - other, axis=-1) * np.array([[1.0], [1.5], [1.5]]), axis=0)


def colour_mask(label: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8: each pixel in the colour of its class; pixels without one are hatched in grey."""
    y, x = np.indices(label.shape, sparse=True)
    hatch = np.array(HATCH, np.uint8)[(y + x) // 4 % 2]
    return np.where((label == IGNORE)[..., None], hatch, palette()[label])


def overlay(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8: the classes' colours over the image, which turns grey, so that every hue is a class.

    The borders between classes are drawn in full colour.
    """
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    colours = colour_mask(label)
    blend = (OPACITY * colours + (1 - OPACITY) * grey).round().astype(np.uint8)
    border = np.zeros(label.shape, bool)
    border[:, :-1] |= label[:, :-1] != label[:, 1:]
    border[:-1] |= label[:-1] != label[1:]
    return np.where(border[..., None], colours, blend)


def comparison(
    images: np.ndarray, labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """One uint8 RGB picture of N examples: image, truth and prediction side by side, titles above, the classes below.

    `images` [N,H,W,3], `labels` and `predictions` [N,H,W]. Small images are enlarged; the legend has the classes that
    occur.
    """
    count, height, width = labels.shape
    factor = max(1, min(math.ceil(SMALLEST_TILE / min(height, width)), LARGEST_TILE // max(height, width)))
    height, width = height * factor, width * factor
    text = max(15, height // 15)
    font, gap = ImageFont.load_default(size=text), max(6, text // 2)
    columns = 1 if count <= ROWS_OF_ONE_COLUMN else 2
    panel = 3 * width + 2 * gap  # one example
    total = columns * panel + (columns + 1) * 2 * gap
    title = 2 * text
    bottom = title + math.ceil(count / columns) * (height + gap)
    present = np.unique(np.concatenate([labels.ravel(), predictions.ravel()]))
    entries = [(None, "no label") if index == IGNORE else (int(index), class_names[index]) for index in present]
    legend, places = lay_legend(entries, font, total - 4 * gap)
    canvas = Image.new("RGB", (total, bottom + legend + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for column in range(columns):
        for part, name in enumerate(("image", "truth", "prediction")):
            middle = 2 * gap + column * (panel + 2 * gap) + part * (width + gap) + width // 2
            draw.text((middle, title // 2), name, fill=INK, font=font, anchor="mm")
    for example in range(count):
        row, column = divmod(example, columns)
        left, top = 2 * gap + column * (panel + 2 * gap), title + row * (height + gap)
        image = np.asarray(Image.fromarray(images[example]).resize((width, height), Image.Resampling.BICUBIC))
        enlarged = (label[example].repeat(factor, 0).repeat(factor, 1) for label in (labels, predictions))
        for part, tile in enumerate([image, *(overlay(image, label) for label in enlarged)]):
            canvas.paste(Image.fromarray(tile), (left + part * (width + gap), top))
    draw_legend(canvas, (2 * gap, bottom), entries, places, font)
    return np.asarray(canvas)


def lay_legend(
    entries: list[tuple[int | None, str]], font: ImageFont.FreeTypeFont, width: int
) -> tuple[int, list[tuple[int, int]]]:
    """The height of the legend, and each entry's place in lines of at most `width` pixels."""
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
    """The colours and the names of `entries` at their `places`, which count from `start` (x, y); None is hatched."""
    draw, size = ImageDraw.Draw(canvas), int(font.size)
    for (index, name), (x, y) in zip(entries, places, strict=True):
        left, top = start[0] + x, start[1] + y
        if index is None:
            canvas.paste(Image.fromarray(colour_mask(np.full((size, size), IGNORE, np.uint8))), (left, top))
        else:
            canvas.paste(class_colour(index), (left, top, left + size, top + size))
        draw.text((left + size * 3 // 2, top + size // 2), name, fill=INK, font=font, anchor="lm")


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """[H,W,3] uint8: where the pixels or objects of each true class went, in percent of that class; darker is more.

    `counts` [C,C], true classes along the rows. Cells that count nothing stay blank, the row of a class that is not in
    the truth is hatched.
    """
    count = len(class_names)
    numbered = count <= MOST_NUMBERED_CLASSES
    cell = min(96, max(34, 640 // count)) if numbered else 14
    font = ImageFont.load_default(size=15 if numbered else 11)
    number, decimals = ImageFont.load_default(size=min(20, cell * 2 // 5)), 1 if count <= 10 else 0
    gap = 12
    line = 2 * gap + int(font.size)  # an axis title
    names = gap + math.ceil(max(font.getlength(name) for name in class_names))
    left, side = line + names, count * cell
    width, height = max(left + side, 560) + 2 * gap, left + side + line + gap  # at least as wide as the scale
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    middle = left + side // 2
    draw.text((middle, line // 2), "prediction", fill=INK, font=font, anchor="mm")
    draw_upwards(canvas, (line // 2, middle + int(font.getlength("truth")) // 2), "truth", font)
    labelled = counts.sum(1)
    for index, name in enumerate(class_names):
        middle = left + index * cell + cell // 2
        draw.text((left - gap // 2, middle), name, fill=INK, font=font, anchor="rm")
        draw_upwards(canvas, (middle, left - gap // 2), name, font)
        if not labelled[index]:
            hatch = colour_mask(np.full((cell, side), IGNORE, np.uint8))
            canvas.paste(Image.fromarray(hatch), (left, middle - cell // 2))
    for true, predicted in np.argwhere(counts):
        part = counts[true, predicted] / labelled[true]
        x, y = left + predicted * cell, left + true * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=_shade(part))
        if numbered:
            text, ink = f"{100 * part:.{decimals}f}", "black" if part < LIGHT else "white"
            draw.text((x + cell / 2, y + cell / 2), text, fill=ink, font=number, anchor="mm")
    draw.rectangle((left - 1, left - 1, left + side, left + side), outline=HATCH[0])
    _draw_scale(canvas, (gap, height - line), font)
    return np.asarray(canvas)


def draw_upwards(canvas: Image.Image, start: tuple[int, int], text: str, font: ImageFont.FreeTypeFont) -> None:
    """Text that reads from (x, y) upwards, its middle line at x."""
    size = math.ceil(font.getlength(text)), 2 * int(font.size)
    tile = Image.new("L", size)
    ImageDraw.Draw(tile).text((0, size[1] // 2), text, fill=255, font=font, anchor="lm")
    tile = tile.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(INK, (start[0] - tile.width // 2, start[1] - tile.height), mask=tile)


def _draw_scale(canvas: Image.Image, place: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    """What the colours of a confusion matrix mean, in a line from (x, y) on."""
    draw, (x, y), size = ImageDraw.Draw(canvas), place, int(font.size)
    for step in range(10 * size):
        draw.line((x + step, y, x + step, y + size), fill=_shade(step / (10 * size - 1)))
    x += 10 * size
    text = "  0 to 100 % of the true class"
    draw.text((x, y + size // 2), text, fill=INK, font=font, anchor="lm")
    x += int(font.getlength(text)) + 2 * size
    canvas.paste(Image.fromarray(colour_mask(np.full((size, 2 * size), IGNORE, np.uint8))), (x, y))
    draw.text((x + 2 * size, y + size // 2), "  not in the truth", fill=INK, font=font, anchor="lm")


def _shade(part: float) -> tuple[int, int, int]:
    return tuple(round(float(np.interp(part, (0, 0.5, 1), channel))) for channel in zip(*SHADES, strict=True))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write [H,W,3] RGB or [H,W] grey uint8 as PNG; the file is there whole or not at all. Raises UserError."""
    _write(path, Image.fromarray(picture))


def write_mask(path: Path, label: np.ndarray) -> None:
    """Write a label map as a palette PNG: the pixels are the class indices, every viewer shows their colours."""
    mask = Image.fromarray(label)
    mask.putpalette(palette().tobytes())
    _write(path, mask)


def _write(path: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())
