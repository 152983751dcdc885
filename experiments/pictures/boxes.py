"""Pictures of boxes: over an image, and predictions next to the ground truth.

Images are [H,W,3] uint8 RGB, boxes [N,4] (top, left, bottom, right) in their pixels.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.legend import list_classes
from experiments.pictures.pairs import TILE, Rows, compare, enlarge
from experiments.pictures.palette import choose_ink, class_colour
from experiments.pictures.scores import keep_confident

DASH = 5  # lengths of a dash and of the space after it, in widths of its line


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str],
    dashed: np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes [N,4] in the colours of their `classes` [N], each with the name of its class and its score.

    Boxes of `dashed` [N] bool have a dashed frame. A small image is enlarged by a whole factor, so that names can be read.
    Returns [H,W,3] uint8.
    """
    height, width = image.shape[:2]
    factor = max(1, TILE // max(height, width))
    canvas = enlarge(image, factor)
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
    """Draw on `canvas`. No name hides another one, as far as there is room."""
    draw = ImageDraw.Draw(canvas)
    text = max(13, round(math.sqrt(canvas.width * canvas.height) / 32))
    font, line = ImageFont.load_default(size=text), max(3, text // 6)
    order = np.arange(len(boxes)) if scores is None else np.argsort(-scores, kind="stable")
    corners = boxes.round().astype(int)[:, [1, 0, 3, 2]].tolist()
    for index in order[::-1]:  # the most certain on top
        colour = class_colour(classes[index])
        length = DASH * line if dashed is not None and dashed[index] else None
        _draw_outline(draw, corners[index], line, colour, length)
    taken: list[tuple[int, int, int, int]] = []
    for index in order:  # the most certain one chooses its place first
        name = class_names[classes[index]] + ("" if scores is None else f" {scores[index]:.2f}")
        taken.append(_place_name(draw, corners[index], name, font, canvas.size, taken))
        colour = class_colour(classes[index])
        draw.rectangle((taken[-1][0], taken[-1][1], taken[-1][2] - 1, taken[-1][3] - 1), fill=colour)
        middle = (taken[-1][1] + taken[-1][3]) / 2
        draw.text((taken[-1][0] + text // 4, middle), name, fill=choose_ink(colour), font=font, anchor="lm")


def _place_name(
    draw: ImageDraw.ImageDraw,
    corners: Sequence[int],
    name: str,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Choose where (left, top, right, bottom) a box's name goes: at its corners, outside first, off the `taken` places."""
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
    """Draw a frame of `line` pixels inside the corners (left, top, right, bottom), with a border that sets it off.

    With `dash` it is dashed: as many pixels are drawn as are left out.
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
        draw.rectangle((x - 1, y - 1, end, low), fill=choose_ink(colour))
    for x, y, end, low in bars:
        draw.rectangle((x, y, end - 1, low - 1), fill=colour)


def compare_boxes(
    images: Sequence[np.ndarray],
    truths: Sequence[Mapping[str, np.ndarray]],
    predictions: Sequence[Mapping[str, np.ndarray]],
    class_names: Sequence[str],
    least_score: float = 0.0,
) -> np.ndarray:
    """Draw N examples of any sizes: ground truth and prediction side by side, the legend below.

    `truths` have boxes, classes, crowd and difficult; `predictions` have boxes, classes and scores, and are drawn from
    `least_score` on. Crowds and difficult objects are dashed. The legend has the classes that are drawn. Returns [H,W,3] uint8.
    """
    shown = [keep_confident(rows, least_score) for rows in predictions]
    entries = list_classes((rows["classes"] for rows in (*truths, *shown)), class_names)
    return compare(images, truths, predictions, draw_box_rows, class_names, entries, least_score)


def draw_box_rows(tile: Image.Image, scale: tuple[float, float], rows: Rows, class_names: Sequence[str]) -> Image.Image:
    """Draw an example's objects or its detections on a tile, as `compare_boxes` does."""
    dashed = rows["crowd"] | rows["difficult"] if "crowd" in rows else None
    _draw_boxes(tile, rows["boxes"] * (scale * 2), rows["classes"], rows.get("scores"), class_names, dashed)
    return tile
