"""Plots of scores, which are confusion matrices, precision-recall curves and named points, [H,W,3] uint8 RGB."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.font import load_font
from experiments.pictures.palette import FAINT, HATCH, INK, SHADES, class_colour, colour_mask, luminance
from input_pipeline.batch import IGNORE

Box = tuple[float, float, float, float]  # (left, top, right, bottom) in pixels of a picture

MOST_NUMBERED_CLASSES = 40  # a confusion matrix with more has no numbers
LIGHT = 0.65  # from this part on a shade is so dark that white has more contrast
MOST_COLOURED_CURVES = 16  # with more classes only the best and the worst have colours and names
PLOT = 480  # pixels of a side of the square that curves are drawn in
RECALL, PRECISION = "recall (found part of the objects)", "precision (correct part of the detections)"
LIGHT_LINE = 0.6  # from this luminance on a line on white needs a border


def plot_confusion(counts: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Plot the predicted classes of each true class's pixels, in percent of the true class. Darker is more.

    `counts` [C,C] has the true classes along the rows. A cell without a pixel stays blank. The row of a class that is not
    in the ground truth is hatched. Return [H,W,3] uint8.
    """
    labelled = counts.sum(1, keepdims=True)
    parts = np.divide(counts, labelled, out=np.zeros(counts.shape), where=labelled > 0)
    decimals = 1 if len(class_names) <= 10 else 0
    texts = [
        [f"{100 * part:.{decimals}f}" if count else "" for part, count in zip(*rows, strict=True)]
        for rows in zip(parts, counts, strict=True)
    ]
    return _plot_cells(parts, texts, class_names, "pixels in % of the true class")


def plot_box_confusion(counts: np.ndarray, class_names: Sequence[str], iou: float, score: float) -> np.ndarray:
    """Plot the number of objects by true and predicted class. Darker is a larger part of the true class.

    `counts` [C+1,C+1] has the true classes along the rows. The last column counts missed objects. The last row counts
    false alarms: it has no true objects, so that its cells have no colour. The title names the `iou` from which on a
    detection finds an object, and the least `score` of a detection. Return [H,W,3] uint8.
    """
    labelled = counts.sum(1, keepdims=True)
    parts = np.divide(counts, labelled, out=np.zeros(counts.shape), where=labelled > 0)
    parts[-1] = np.nan
    texts = [[str(count) if count else "" for count in row] for row in counts.tolist()]
    title = f"number of objects, IoU {iou:g} or more, score {score:g} or more"
    return _plot_cells(parts, texts, class_names, title, ("background (missed)", "background (false alarms)"))


def _plot_cells(
    parts: np.ndarray,
    texts: Sequence[Sequence[str]],
    class_names: Sequence[str],
    title: str,
    last: tuple[str, str] | None = None,
) -> np.ndarray:
    """Plot a matrix of `parts` [C,C], 0 to 1, each cell with its text. Parts of nan have no colours.

    `last` names a last column and a last row, which the classes do not; a line sets them off.
    """
    count = len(parts)
    numbered = count <= MOST_NUMBERED_CLASSES
    cell = min(96, max(34, 640 // count)) if numbered else 14
    font, gap = load_font(15 if numbered else 11), 12
    number = load_font(min(20, cell * 2 // 5) if numbered else 11)
    longest = max((number.getlength(text) for row in texts for text in row), default=0)
    cell = max(cell, math.ceil(longest) + 6) if numbered else cell
    line = 2 * gap + int(font.size)  # an axis title
    along, across = (*class_names, *(last or ())[:1]), (*class_names, *(last or ())[1:])
    names = gap + math.ceil(max(font.getlength(name) for name in (*along, *across)))
    left, top, side = line + names, 2 * line + names, count * cell
    # The last row has no colours, only numbers. In small cells they are printed upwards, in a taller row.
    tall = max(2 * cell, math.ceil(longest) + 6) if last and not numbered else cell
    legend = _draw_scale(font, last is None)
    width = max(left + side, legend.width + gap, math.ceil(font.getlength(title)) + gap) + 2 * gap
    canvas = Image.new("RGB", (width, top + side - cell + tall + line + gap), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, line // 2), title, fill=INK, font=font, anchor="lm")
    draw.text((left + side // 2, line * 3 // 2), "prediction", fill=INK, font=font, anchor="mm")
    half = int(font.getlength("ground truth")) // 2
    _draw_upwards(canvas, (line // 2, top + side // 2 + half), "ground truth", font)
    for index, (column, row) in enumerate(zip(along, across, strict=True)):
        x, y = left + index * cell, top + index * cell
        high = tall if index == count - 1 else cell
        draw.text((left - gap // 2, y + high // 2), row, fill=INK, font=font, anchor="rm")
        _draw_upwards(canvas, (x + cell // 2, top - gap // 2), column, font)
        if not parts[index].any():
            hatch = colour_mask(np.full((high, side), IGNORE, np.uint8))
            canvas.paste(Image.fromarray(hatch), (left, y))
    for true, predicted in itertools.product(range(count), repeat=2):
        text, part = texts[true][predicted], parts[true, predicted]
        x, y = left + predicted * cell, top + true * cell
        if text and not np.isnan(part):
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=_shade(part))
        ink = "white" if part >= LIGHT else "black"
        if numbered:
            draw.text((x + cell / 2, y + cell / 2), text, fill=ink, font=number, anchor="mm")
        elif text and np.isnan(part):
            _draw_upwards(canvas, (x + cell // 2, y + tall - 3), text, number)
    right, bottom = left + side, top + side - cell + tall
    draw.rectangle((left - 1, top - 1, right, bottom), outline=HATCH[0])
    if last:
        draw.line((left, bottom - tall, right, bottom - tall), fill=INK, width=2)
        draw.line((right - cell, top, right - cell, bottom), fill=INK, width=2)
    canvas.paste(legend, (gap, bottom + gap))
    return np.asarray(canvas)


def _draw_scale(font: ImageFont.FreeTypeFont, every_row: bool) -> Image.Image:
    """Draw what the colours of a confusion matrix mean, of every row or of all but the last."""
    size = int(font.size)
    texts = "0 to 100 % of the row" + ("" if every_row else "; the last row has no colours"), "not in the ground truth"
    first, second = (math.ceil(font.getlength(text)) for text in texts)
    canvas = Image.new("RGB", (15 * size + first + second, 2 * size), "white")
    draw, x = ImageDraw.Draw(canvas), 10 * size
    for step in range(x):
        draw.line((step, 0, step, size), fill=_shade(step / (x - 1)))
    draw.text((x + size // 2, size // 2), texts[0], fill=INK, font=font, anchor="lm")
    x += first + 2 * size
    canvas.paste(Image.fromarray(colour_mask(np.full((size, 2 * size), IGNORE, np.uint8))), (x, 0))
    draw.text((x + size * 5 // 2, size // 2), texts[1], fill=INK, font=font, anchor="lm")
    return canvas


def _shade(part: float) -> tuple[int, int, int]:
    red, green, blue = (round(float(np.interp(part, (0, 0.5, 1), channel))) for channel in zip(*SHADES, strict=True))
    return red, green, blue


def plot_precision_recall(
    curves: Sequence[tuple[np.ndarray, np.ndarray] | None],
    scores: Sequence[float],
    class_names: Sequence[str],
    title: str,
) -> np.ndarray:
    """Plot the curve of each class, and list its score. A curve has rising recalls, and the precision up to each.

    If there are more than 16 classes, the 8 with the highest and the 8 with the lowest scores have colours and names, and
    the others are grey. A class without ground truth has None in place of a curve. Return [H,W,3] uint8.
    """
    drawn = {index: curve for index, curve in enumerate(curves) if curve is not None}
    known = sorted(drawn, key=lambda index: -scores[index])
    half = MOST_COLOURED_CURVES // 2
    grey = known[half:-half] if len(known) > MOST_COLOURED_CURVES else []
    named = [index for index in known if index not in grey]
    font, gap = load_font(15), 12
    lines = [f"{scores[index]:.3f}  {class_names[index]}" for index in named]
    if grey:
        lines.insert(half, f"{len(grey)} other classes")
    lines.insert(0, "AP and class")
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
    draw.text((left + PLOT // 2, top + PLOT + 3 * gap + 4), RECALL, fill=INK, font=font, anchor="mm")
    _draw_upwards(canvas, (gap, top + PLOT // 2 + int(font.getlength(PRECISION)) // 2), PRECISION, font)
    for tick in range(0, 11, 2):
        part = PLOT * tick // 10
        draw.text((left + part, top + PLOT + 9), f"{tick / 10:.1f}", fill=INK, font=font, anchor="mt")
        draw.text((left - 6, top + PLOT - part), f"{tick / 10:.1f}", fill=INK, font=font, anchor="rm")
    colours = [HATCH[1]] * len(grey) + [class_colour(index) for index in named[::-1]]
    canvas.paste(_draw_curves([drawn[index] for index in grey + named[::-1]], colours), (left, top))
    swatches = [class_colour(index) for index in named]
    swatches[half:half] = [HATCH[1]] * bool(grey)
    for row, text in enumerate(lines):
        x, y = left + PLOT + 3 * gap, top + row * line + line // 2
        if 0 < row <= len(swatches):  # below the heading
            colour = swatches[row - 1]
            border = INK if luminance(colour) > LIGHT_LINE else None
            draw.rectangle((x, y - 3, x + 21, y + 3), fill=colour, outline=border)
        draw.text((x + 30, y), text, fill=INK, font=font, anchor="lm")
    return np.asarray(canvas)


def plot_points(points: Sequence[tuple[str, float, float]], x_title: str, y_title: str) -> np.ndarray:
    """Plot named points (name, x, y), with x > 0 on a logarithmic axis. A name avoids other names and points if it can.

    Return [H,W,3] uint8.
    """
    font, small, gap = load_font(15), load_font(13), 12
    left, top, width, height = 6 * gap, 2 * gap, PLOT * 3 // 2, PLOT
    canvas = Image.new("RGB", (left + width + 2 * gap, top + height + 5 * gap), "white")
    draw = ImageDraw.Draw(canvas)
    logarithms = np.array([math.log10(x) for _, x, _ in points])
    values = np.array([y for _, _, y in points], float)
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
    draw.text((left + width / 2, top + height + 4 * gap), f"{x_title} (logarithmic)", fill=INK, font=font, anchor="mm")
    _draw_upwards(canvas, (gap, top + height // 2 + int(font.getlength(y_title)) // 2), y_title, font)
    x = left + width * (logarithms - x_ends[0]) / (x_ends[1] - x_ends[0])
    y = top + height * (y_ends[1] - values) / (y_ends[1] - y_ends[0])
    taken = [(a - 7, b - 7, a + 7, b + 7) for a, b in zip(x, y, strict=True)]
    for index, (name, _, _) in enumerate(points):
        a, b, colour = x[index], y[index], class_colour(index)
        draw.ellipse((a - 6, b - 6, a + 6, b + 6), fill=colour, outline=INK)
        size = font.getlength(name), font.size
        box = _find_room(_list_places(a, b, size), taken, (left, top, left + width, top + height))
        taken.append(box)
        draw.text((box[0], (box[1] + box[3]) / 2), name, fill=INK, font=font, anchor="lm")
    return np.asarray(canvas)


def _widen(values: np.ndarray, share: float) -> tuple[float, float]:
    """Return the ends of an axis that shows `values` with room at both sides."""
    room = share * (values.max() - values.min()) or 0.1
    return float(values.min() - room), float(values.max() + room)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def _even_ticks(low: float, high: float) -> list[float]:
    """Return about six round numbers between two ends."""
    step = 10 ** math.floor(math.log10(high - low))
    step = min((step * factor for factor in (0.1, 0.2, 0.5, 1.0)), key=lambda own: abs((high - low) / own - 6))
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _list_places(x: float, y: float, size: tuple[float, float]) -> list[Box]:
    """List the places of a name of `size` (width, height) around its point, the best one first."""
    width, height = size
    corners = [(x + 10, y - height / 2), (x - 10 - width, y - height / 2)]
    corners += [(x - width / 2, y + sign * distance - height / 2) for distance in (18, 32, 46) for sign in (-1, 1)]
    return [(left, top, left + width, top + height) for left, top in corners]


def _find_room(places: list[Box], taken: list[Box], area: Box) -> Box:
    """Return the first place that lies in the area and overlaps no taken one, the first of all if there is none."""

    def is_free(box: Box) -> bool:
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
    """Draw text upwards from (x, y), with its middle line at x."""
    size = math.ceil(font.getlength(text)), 2 * int(font.size)
    tile = Image.new("L", size)
    ImageDraw.Draw(tile).text((0, size[1] // 2), text, fill=255, font=font, anchor="lm")
    tile = tile.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(INK, (start[0] - tile.width // 2, start[1] - tile.height), mask=tile)
