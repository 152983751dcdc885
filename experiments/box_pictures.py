"""Pictures of boxes: over an image, beside the truth, and the precision-recall curves of their classes.

Images are [H,W,3] uint8 RGB, boxes [N,4] (top, left, bottom, right) in their pixels.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures import HATCH, INK, ROWS_OF_ONE_COLUMN, class_colour, draw_legend, draw_upwards, lay_legend

SHOWN_SCORE = 0.25  # detections below it are not drawn: hundreds of weak ones would hide the image
TILE = 448  # pixels of the longer side of an example with boxes; alone, larger ones stay as they are
DASH = 5  # lengths of a dash and of the space after it, in widths of its line
MOST_COLOURED_CURVES = 16  # of more classes the best and the worst have colours and names, the others are grey
PLOT = 480  # pixels of a side of the square that curves are drawn in
LIGHT_LINE = 0.6  # the luminance from which on a line on white needs a border
FAINT = (222, 222, 222)  # of a grid


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
    legend, places = lay_legend(entries, font, total - 4 * gap)
    canvas = Image.new("RGB", (total, tops[-1] + legend + gap), "white")
    draw = ImageDraw.Draw(canvas)
    lefts = [2 * gap + place // 2 * (panel + 2 * gap) + place % 2 * (TILE + gap) for place in range(per_row)]
    for place, left in enumerate(lefts):
        name = ("truth", "prediction")[place % 2]
        draw.text((left + TILE // 2, title // 2), name, fill=INK, font=font, anchor="mm")
    for index, tile in enumerate(tiles):
        row, place = divmod(index, per_row)
        canvas.paste(tile, (lefts[place] + (TILE - tile.width) // 2, tops[row] + (heights[row] - tile.height) // 2))
    draw_legend(canvas, (2 * gap, tops[-1]), entries, places, font)
    return np.asarray(canvas)


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
    draw_upwards(canvas, (gap, top + PLOT // 2 + int(font.getlength("precision")) // 2), "precision", font)
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
