"""Pictures of label maps and boxes: a fixed palette, overlays on the image, predictions beside the truth, and scores.

Images are [H,W,3] uint8 RGB, label maps [H,W] uint8 with a class index in each pixel and 255 where there is none, boxes
(top, left, bottom, right) in pixels.
"""

import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.writers import write_atomically
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
SHOWN_SCORE = 0.25  # detections below it are not drawn: hundreds of weak ones would hide the image
TILE = 448  # pixels of the longer side of an example with boxes; alone, larger ones stay as they are
DASH = 5  # lengths of a dash and of the space after it, in widths of its line
MOST_COLOURED_CURVES = 16  # of more classes the best and the worst have colours and names, the others are grey
PLOT = 480  # pixels of a side of the square that curves are drawn in
LIGHT_LINE = 0.6  # the luminance from which on a line on white needs a border
FAINT = (222, 222, 222)  # of a grid

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
    legend, places = _legend(entries, font, total - 4 * gap)
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
    _draw_legend(canvas, (2 * gap, bottom), entries, places, font)
    return np.asarray(canvas)


def _legend(
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


def _draw_legend(
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


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str],
    dashed: np.ndarray | None = None,
) -> np.ndarray:
    """[H,W,3] uint8: boxes [N,4] in the colours of their `classes` [N], each with its class's name and its score.

    Detections of a score below 0.25 are left out. Those of `dashed` [N] bool are drawn so. A small image is enlarged by a
    whole factor, so that names can be read.
    """
    height, width = image.shape[:2]
    factor = max(1, TILE // max(height, width))
    canvas = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    _draw_boxes(canvas, boxes * factor, classes, scores, class_names, dashed)
    return np.asarray(canvas)


def _draw_boxes(
    canvas: Image.Image,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str],
    dashed: np.ndarray | None,
) -> None:
    """As `draw_boxes`, on `canvas`. Each name stands where no other one does, as far as there is room."""
    draw = ImageDraw.Draw(canvas)
    text = max(13, round(math.sqrt(canvas.width * canvas.height) / 32))
    font, line = ImageFont.load_default(size=text), max(3, text // 6)
    order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind="stable")
    if scores is not None:
        order = order[scores[order] >= SHOWN_SCORE]
    corners = boxes.round().astype(int)[:, [1, 0, 3, 2]].tolist()
    for index in order[::-1]:  # the most certain on top
        colour = class_colour(classes[index])
        length = DASH * line if dashed is not None and dashed[index] else None
        _draw_outline(draw, corners[index], line, colour, length)
    taken: list[tuple[int, int, int, int]] = []
    for index in order:  # the most certain first to choose a place
        name = class_names[classes[index]] + ("" if scores is None else f" {scores[index]:.2f}")
        taken.append(_place_name(draw, corners[index], name, font, canvas.size, taken))
        colour = class_colour(classes[index])
        draw.rectangle((taken[-1][0], taken[-1][1], taken[-1][2] - 1, taken[-1][3] - 1), fill=colour)
        middle = (taken[-1][1] + taken[-1][3]) / 2
        draw.text((taken[-1][0] + text // 4, middle), name, fill=_ink(colour), font=font, anchor="lm")


def _place_name(
    draw: ImageDraw.ImageDraw,
    corners: Sequence[int],
    name: str,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Where (left, top, right, bottom) a box's name goes: at its corners, outside first, and off the `taken` places."""
    left, top, right, bottom = corners
    wide, high = math.ceil(font.getlength(name)) + int(font.size) // 2, int(font.size) * 5 // 4
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


def _draw_outline(
    draw: ImageDraw.ImageDraw, corners: Sequence[int], line: int, colour: tuple[int, int, int], dash: int | None
) -> None:
    """A frame of `line` pixels inside the corners (left, top, right, bottom), with a border that sets it off.

    With `dash` it is broken: as many pixels are drawn as are left out.
    """
    left, top, right, bottom = corners
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    line = min(line, -(-(right - left) // 2), -(-(bottom - top) // 2))
    bars = []
    for start in range(left, right, 2 * dash if dash else right - left):
        end = min(right, start + dash) if dash else right
        bars += [(start, top, end, top + line), (start, bottom - line, end, bottom)]
    for start in range(top, bottom, 2 * dash if dash else bottom - top):
        end = min(bottom, start + dash) if dash else bottom
        bars += [(left, start, left + line, end), (right - line, start, right, end)]
    for x, y, end, low in bars:
        draw.rectangle((x - 1, y - 1, end, low), fill=_ink(colour))
    for x, y, end, low in bars:
        draw.rectangle((x, y, end - 1, low - 1), fill=colour)


def _ink(colour: Sequence[int]) -> str:
    """Black or white: what is read better on `colour`, by the contrast of the web's guidelines."""
    return "black" if (_luminance(colour) + 0.05) ** 2 > 0.05 * 1.05 else "white"


def _luminance(colour: Sequence[int]) -> float:
    """Of an sRGB colour, 0 to 1."""
    value = np.asarray(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def box_comparison(
    images: Sequence[np.ndarray],
    truths: Sequence[Mapping[str, np.ndarray]],
    predictions: Sequence[Mapping[str, np.ndarray]],
    class_names: Sequence[str],
) -> np.ndarray:
    """One uint8 RGB picture of N examples of any sizes: truth and prediction side by side, the classes below.

    `truths` have boxes, classes, crowd and difficult, `predictions` boxes, classes and scores. Crowds and difficult
    objects are dashed. The legend has the classes that are drawn.
    """
    columns = 1 if len(images) <= ROWS_OF_ONE_COLUMN else 2
    text, gap = 18, 10
    font, panel = ImageFont.load_default(size=text), 2 * TILE + gap
    total, title = columns * panel + (columns + 1) * 2 * gap, 2 * text
    tiles, present = [], set()
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        scale = TILE / max(image.shape[:2])
        height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        factors = np.array([height, width] * 2) / (image.shape[:2] * 2)
        aside = truth["crowd"] | truth["difficult"]
        for rows, scores, dashed in ((truth, None, aside), (prediction, prediction["scores"], None)):
            tile = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
            _draw_boxes(tile, rows["boxes"] * factors, rows["classes"], scores, class_names, dashed)
            tiles.append(tile)
            present |= set(rows["classes"][slice(None) if scores is None else scores >= SHOWN_SCORE].tolist())
    per_row = 2 * columns
    heights = [max(tile.height for tile in tiles[first : first + per_row]) for first in range(0, len(tiles), per_row)]
    tops = [title + sum(heights[:row]) + row * gap for row in range(len(heights) + 1)]
    entries = [(index, class_names[index]) for index in sorted(present)]
    legend, places = _legend(entries, font, total - 4 * gap)
    canvas = Image.new("RGB", (total, tops[-1] + legend + gap), "white")
    draw = ImageDraw.Draw(canvas)
    lefts = [2 * gap + place // 2 * (panel + 2 * gap) + place % 2 * (TILE + gap) for place in range(per_row)]
    for place, left in enumerate(lefts):
        name = ("truth", "prediction")[place % 2]
        draw.text((left + TILE // 2, title // 2), name, fill=INK, font=font, anchor="mm")
    for index, tile in enumerate(tiles):
        row, place = divmod(index, per_row)
        canvas.paste(tile, (lefts[place] + (TILE - tile.width) // 2, tops[row] + (heights[row] - tile.height) // 2))
    _draw_legend(canvas, (2 * gap, tops[-1]), entries, places, font)
    return np.asarray(canvas)


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
    _draw_upwards(canvas, (line // 2, middle + int(font.getlength("truth")) // 2), "truth", font)
    labelled = counts.sum(1)
    for index, name in enumerate(class_names):
        middle = left + index * cell + cell // 2
        draw.text((left - gap // 2, middle), name, fill=INK, font=font, anchor="rm")
        _draw_upwards(canvas, (middle, left - gap // 2), name, font)
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


def _draw_upwards(canvas: Image.Image, start: tuple[int, int], text: str, font: ImageFont.FreeTypeFont) -> None:
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


def precision_recall(
    curves: Sequence[tuple[np.ndarray, np.ndarray] | None],
    scores: Sequence[float],
    class_names: Sequence[str],
    title: str,
) -> np.ndarray:
    """[H,W,3] uint8: for each class its curve, rising recalls and the precision that holds up to each, and its score.

    Of more than 16 classes the 8 of the highest and the 8 of the lowest score have colours and names, the others are
    grey. A class without a truth, None, has no curve.
    """
    known = sorted((index for index, curve in enumerate(curves) if curve is not None), key=lambda index: -scores[index])
    half = MOST_COLOURED_CURVES // 2
    grey = known[half:-half] if len(known) > MOST_COLOURED_CURVES else []
    named = [index for index in known if index not in grey]
    font, gap = ImageFont.load_default(size=15), 12
    lines = [f"{scores[index]:.3f}  {class_names[index]}" for index in named]
    if grey:
        lines.insert(half, f"{len(grey)} other classes")
    missing = len(curves) - len(known)
    if missing:
        lines.append(f"{missing} {'class is' if missing == 1 else 'classes are'} not in the truth")
    left, top, line = 5 * gap, 4 * gap, 23
    width = left + PLOT + 3 * gap + 30 + math.ceil(max((font.getlength(text) for text in lines), default=0)) + gap
    height = top + max(PLOT + 5 * gap, len(lines) * line + gap)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    mean = f", mean AP {np.mean([scores[index] for index in known]):.3f}" if known else ""
    draw.text((left + PLOT // 2, top // 2), title + mean, fill=INK, font=font, anchor="mm")
    draw.text((left + PLOT // 2, top + PLOT + 3 * gap + 4), "recall", fill=INK, font=font, anchor="mm")
    _draw_upwards(canvas, (gap, top + PLOT // 2 + int(font.getlength("precision")) // 2), "precision", font)
    for tick in range(0, 11, 2):
        part = PLOT * tick // 10
        draw.text((left + part, top + PLOT + 9), f"{tick / 10:.1f}", fill=INK, font=font, anchor="mt")
        draw.text((left - 6, top + PLOT - part), f"{tick / 10:.1f}", fill=INK, font=font, anchor="rm")
    colours = [HATCH[1]] * len(grey) + [class_colour(index) for index in named[::-1]]
    canvas.paste(_plot([curves[index] for index in grey + named[::-1]], colours), (left, top))
    swatches = [class_colour(index) for index in named]
    swatches[half:half] = [HATCH[1]] * bool(grey)
    for row, text in enumerate(lines):
        x, y = left + PLOT + 3 * gap, top + row * line + line // 2
        if row < len(swatches):
            border = INK if _luminance(swatches[row]) > LIGHT_LINE else None
            draw.rectangle((x, y - 3, x + 21, y + 3), fill=swatches[row], outline=border)
        draw.text((x + 30, y), text, fill=INK, font=font, anchor="lm")
    return np.asarray(canvas)


def _plot(curves: Sequence[tuple[np.ndarray, np.ndarray]], colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    """The curves in a square from (0, 0) to (1, 1), the last one on top. Drawn at twice the size for smooth lines."""
    side = 2 * PLOT
    canvas = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(canvas)
    for tick in range(0, 11, 2):
        part = min(side * tick // 10, side - 2)
        draw.rectangle((part, 0, part + 1, side), fill=FAINT)
        draw.rectangle((0, side - 2 - part, side, side - 1 - part), fill=FAINT)
    for (recalls, precision), colour in zip(curves, colours, strict=True):
        reached = precision > 0
        x = np.concatenate([[0], recalls[reached].repeat(2)])[:-1]
        y = precision[reached].repeat(2)
        points = [tuple(point) for point in np.stack([2 + x * (side - 5), 2 + (1 - y) * (side - 5)], -1).tolist()]
        if colour == HATCH[1]:
            draw.line(points, fill=colour, width=3)
            continue
        if _luminance(colour) > LIGHT_LINE:
            draw.line(points, fill=INK, width=8)
        draw.line(points, fill=colour, width=6)
    return canvas.reduce(2)


def _shade(part: float) -> tuple[int, int, int]:
    return tuple(round(float(np.interp(part, (0, 0.5, 1), channel))) for channel in zip(*SHADES, strict=True))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write [H,W,3] RGB or [H,W] grey uint8 as PNG; the file is there whole or not at all. Raises RunError."""
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
