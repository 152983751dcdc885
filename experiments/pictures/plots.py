"""Plots of scores: confusion matrices and precision-recall curves, [H,W,3] uint8 RGB."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.palette import HATCH, INK, class_colour, colour_mask, luminance
from input_pipeline.batch import IGNORE

MOST_NUMBERED_CLASSES = 40  # a confusion matrix of more has colours alone
SHADES = ((247, 251, 255), (92, 158, 208), (8, 40, 96))  # 0, 50 and 100 percent: darker is more, in grey as well
LIGHT = 0.65  # from this part on a shade is so dark that white is read better on it
MOST_COLOURED_CURVES = 16  # of more classes the best and the worst have colours and names, the others are grey
PLOT = 480  # pixels of a side of the square that curves are drawn in
LIGHT_LINE = 0.6  # from this luminance on a line on white needs a border
FAINT = (222, 222, 222)  # of a grid


def plot_confusion(counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Plot where the pixels or objects of each true class went, in percent of that class; darker is more.

    `counts` [C,C] has the true classes along the rows. A cell that counts nothing stays blank. The row of a class that is
    not in the ground truth is hatched. Returns [H,W,3] uint8.
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
    _draw_upwards(canvas, (line // 2, middle + int(font.getlength("ground truth")) // 2), "ground truth", font)
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


def _draw_scale(canvas: Image.Image, place: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    """Draw what the colours of a confusion matrix mean, in a line from (x, y) on."""
    draw, (x, y), size = ImageDraw.Draw(canvas), place, int(font.size)
    for step in range(10 * size):
        draw.line((x + step, y, x + step, y + size), fill=_shade(step / (10 * size - 1)))
    x += 10 * size
    text = "  0 to 100 % of the true class"
    draw.text((x, y + size // 2), text, fill=INK, font=font, anchor="lm")
    x += int(font.getlength(text)) + 2 * size
    canvas.paste(Image.fromarray(colour_mask(np.full((size, 2 * size), IGNORE, np.uint8))), (x, y))
    draw.text((x + 2 * size, y + size // 2), "  not in the ground truth", fill=INK, font=font, anchor="lm")


def _shade(part: float) -> tuple[int, int, int]:
    return tuple(round(float(np.interp(part, (0, 0.5, 1), channel))) for channel in zip(*SHADES, strict=True))


def plot_precision_recall(
    curves: Sequence[tuple[np.ndarray, np.ndarray] | None],
    scores: Sequence[float],
    class_names: Sequence[str],
    title: str,
) -> np.ndarray:
    """Plot for each class its score and its curve: rising recalls, and the precision that holds up to each.

    Of more than 16 classes the 8 of the highest and the 8 of the lowest score have colours and names, the others are
    grey. A class without ground truth, None, has no curve. Returns [H,W,3] uint8.
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
        lines.append(f"{missing} {'class is' if missing == 1 else 'classes are'} not in the ground truth")
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
    canvas.paste(_draw_curves([curves[index] for index in grey + named[::-1]], colours), (left, top))
    swatches = [class_colour(index) for index in named]
    swatches[half:half] = [HATCH[1]] * bool(grey)
    for row, text in enumerate(lines):
        x, y = left + PLOT + 3 * gap, top + row * line + line // 2
        if row < len(swatches):
            border = INK if luminance(swatches[row]) > LIGHT_LINE else None
            draw.rectangle((x, y - 3, x + 21, y + 3), fill=swatches[row], outline=border)
        draw.text((x + 30, y), text, fill=INK, font=font, anchor="lm")
    return np.asarray(canvas)


def _draw_curves(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], colours: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """Draw the curves in a square from (0, 0) to (1, 1), the last one on top, at twice the size for smooth lines."""
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
        if luminance(colour) > LIGHT_LINE:
            draw.line(points, fill=INK, width=8)
        draw.line(points, fill=colour, width=6)
    return canvas.reduce(2)


def _draw_upwards(canvas: Image.Image, start: tuple[int, int], text: str, font: ImageFont.FreeTypeFont) -> None:
    """Draw text that reads from (x, y) upwards, with its middle line at x."""
    size = math.ceil(font.getlength(text)), 2 * int(font.size)
    tile = Image.new("L", size)
    ImageDraw.Draw(tile).text((0, size[1] // 2), text, fill=255, font=font, anchor="lm")
    tile = tile.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(INK, (start[0] - tile.width // 2, start[1] - tile.height), mask=tile)
