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


def plot_points(points: Sequence[tuple[str, float, float]], x_title: str, y_title: str) -> np.ndarray:
    """Plot named points (name, x, y), x above 0 on a logarithmic axis. A name avoids the others and the points, if it can.

    Returns [H,W,3] uint8.
    """
    font, small, gap = ImageFont.load_default(size=15), ImageFont.load_default(size=13), 12
    left, top, width, height = 6 * gap, 2 * gap, PLOT * 3 // 2, PLOT
    canvas = Image.new("RGB", (left + width + 2 * gap, top + height + 5 * gap), "white")
    draw = ImageDraw.Draw(canvas)
    logarithms, values = (
        np.array(list(own), float) for own in (map(math.log10, _column(points, 1)), _column(points, 2))
    )
    x_ends, y_ends = _widen(logarithms, 0.12), _widen(values, 0.12)
    for tick in _log_ticks(*x_ends):
        x = left + width * (math.log10(tick) - x_ends[0]) / (x_ends[1] - x_ends[0])
        draw.line((x, top, x, top + height), fill=FAINT)
        draw.text((x, top + height + 6), f"{tick:g}", fill=INK, font=small, anchor="mt")
    for tick in _even_ticks(*y_ends):
        y = top + height * (y_ends[1] - tick) / (y_ends[1] - y_ends[0])
        draw.line((left, y, left + width, y), fill=FAINT)
        draw.text((left - 6, y), f"{tick:g}", fill=INK, font=small, anchor="rm")
    draw.rectangle((left, top, left + width, top + height), outline=HATCH[0])
    draw.text((left + width / 2, top + height + 4 * gap), x_title, fill=INK, font=font, anchor="mm")
    _draw_upwards(canvas, (gap, top + height // 2 + int(font.getlength(y_title)) // 2), y_title, font)
    x = left + width * (logarithms - x_ends[0]) / (x_ends[1] - x_ends[0])
    y = top + height * (y_ends[1] - values) / (y_ends[1] - y_ends[0])
    taken = [(a - 7, b - 7, a + 7, b + 7) for a, b in zip(x, y, strict=True)]
    for index, (name, _, _) in enumerate(points):
        a, b, colour = x[index], y[index], class_colour(index)
        draw.ellipse((a - 6, b - 6, a + 6, b + 6), fill=colour, outline=INK)
        size = font.getlength(name), font.size
        box = _find_room(_places(a, b, size), taken, (left, top, left + width, top + height))
        taken.append(box)
        draw.text((box[0], (box[1] + box[3]) / 2), name, fill=INK, font=font, anchor="lm")
    return np.asarray(canvas)


def _column(points: Sequence[tuple], number: int) -> list:
    return [point[number] for point in points]


def _widen(values: np.ndarray, share: float) -> tuple[float, float]:
    """The ends of an axis that shows `values` with room at both sides."""
    room = share * (values.max() - values.min()) or 0.1
    return float(values.min() - room), float(values.max() + room)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _even_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, about six of them."""
    step = 10 ** math.floor(math.log10(high - low))
    step = min((step * factor for factor in (0.1, 0.2, 0.5, 1.0)), key=lambda own: abs((high - low) / own - 6))
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _places(x: float, y: float, size: tuple[float, float]) -> list[tuple[float, float, float, float]]:
    """The boxes (left, top, right, bottom) around a point in which its name may stand, the best first."""
    width, height = size
    corners = [(x + 10, y - height / 2), (x - 10 - width, y - height / 2)]
    corners += [(x - width / 2, y + sign * distance - height / 2) for distance in (18, 32, 46) for sign in (-1, 1)]
    return [(left, top, left + width, top + height) for left, top in corners]


def _find_room(
    places: list[tuple[float, ...]], taken: list[tuple[float, ...]], area: tuple[float, ...]
) -> tuple[float, ...]:
    """The first of the places that is in the area and shares no pixel with what is taken, or else the first of all."""

    def is_free(box: tuple[float, ...]) -> bool:
        inside = box[0] > area[0] and box[1] > area[1] and box[2] < area[2] and box[3] < area[3]
        return inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
        )

    return next(filter(is_free, places), places[0])


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
