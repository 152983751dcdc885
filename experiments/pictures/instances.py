"""Pictures of instances over an image, and of predictions next to the ground truth.

Images are [H,W,3] uint8 RGB, boxes [N,4] (top, left, bottom, right) in their pixels, masks [N] of `Mask` in their frame. A
colour shows which pixels are one instance, not its class: hundreds of one class may touch each other.
"""

import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw

from experiments.pictures.font import load_font
from experiments.pictures.frames import WIDE, draw_mark, find_outcomes, list_outcomes
from experiments.pictures.labels import ROWS, turn_grey
from experiments.pictures.legend import Entry
from experiments.pictures.outcomes import Outcome
from experiments.pictures.pairs import TILE, Rows, Style, compare, enlarge
from experiments.pictures.palette import OKABE_ITO, choose_ink, class_colour
from input_pipeline import masks
from input_pipeline.masks import Mask, Part

OPACITY = 0.45  # of an instance's colour inside its contour
REACH = 4  # pixels: boxes that are nearer are neighbours
THICK = 30  # pixels of an instance's shorter side for each pixel of its contour
ROOM, SPACE = 4, 2  # least area of the box in which, or next to which, a name stands, in areas of the name
STRIPE = 4  # pixels of a stripe in what is not counted, and of a dash of a false alarm's contour
MARK, SMALLEST_MARK = 14, 6  # pixels of a mark; an instance of less than twice the smallest has none


def choose_colours(boxes: np.ndarray, reach: float = REACH) -> np.ndarray:
    """Choose an index of the palette for each of the boxes [N,4], so that boxes nearer than `reach` pixels differ.

    The colouring is greedy: the boxes with the most neighbours choose first, and take the least used colour that no
    neighbour has. The colours are the palette's most distinct ones. A box whose neighbours have all of them takes a
    further one.
    """
    low, high = boxes[:, :2], boxes[:, 2:] + reach
    near = np.all((low[:, None] < high[None]) & (low[None] < high[:, None]), -1)
    chosen, used = np.full(len(boxes), -1), [0] * len(OKABE_ITO)
    for index in np.argsort(-near.sum(1), kind="stable"):
        taken = set(chosen[near[index]].tolist())
        free = [colour for colour in range(len(used)) if colour not in taken]
        if free:
            chosen[index] = min(free, key=used.__getitem__)
            used[chosen[index]] += 1
        else:
            chosen[index] = next(colour for colour in itertools.count(len(used)) if colour not in taken)
    return chosen


def draw_instances(image: np.ndarray, found: Rows, class_names: Sequence[str]) -> np.ndarray:
    """Draw detections, which have boxes, classes, scores and masks, over the image, which turns grey.

    An image of less than 896 pixels is enlarged by a whole factor. Scores, and names of classes if there are several,
    stand where there is room. Return [H,W,3] uint8.
    """
    factor = math.ceil(2 * TILE / max(image.shape[:2]))
    canvas = enlarge(image, factor)
    return np.asarray(draw_instance_rows(canvas, (factor, factor), found, class_names))


def draw_instance_rows(
    canvas: Image.Image, scale: tuple[float, float], rows: Rows, class_names: Sequence[str]
) -> Image.Image:
    """Draw the instances on a canvas of `scale` (vertical, horizontal), small ones on top, then their names.

    A hit is filled inside its contour, a false alarm has a dashed contour, and a missed object has a contour alone; a mark
    stands in each, except in small hits. What is not counted is striped.
    """
    pixels = turn_grey(np.asarray(canvas))
    boxes = rows["boxes"] * (scale * 2)
    colours = [class_colour(index) for index in choose_colours(boxes)]
    outcomes = [Outcome(outcome) for outcome in find_outcomes(rows)]
    moved: list[Mask] = masks.move(rows["masks"], np.diag([scale[1], scale[0], 1.0])).tolist()
    order: list[int] = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(-1), kind="stable").tolist()
    for index in order:
        _draw_instance(pixels, moved[index], boxes[index], colours[index], outcomes[index])
    canvas = Image.fromarray(pixels)
    if "outcomes" in rows:
        _draw_marks(canvas, boxes, outcomes)
    _draw_names(canvas, boxes, _list_names(rows, class_names), colours)
    return canvas


def draw_framed_rows(
    canvas: Image.Image, scale: tuple[float, float], rows: Rows, class_names: Sequence[str]
) -> Image.Image:
    """Draw the instances as `draw_instance_rows` does, and the box of each as a thin frame."""
    canvas = draw_instance_rows(canvas, scale, rows, class_names)
    boxes, drawing = rows["boxes"] * (scale * 2), ImageDraw.Draw(canvas)
    for index, (top, left, bottom, right) in zip(
        choose_colours(boxes), boxes.round().astype(int).tolist(), strict=True
    ):
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        drawing.rectangle(corners, outline=class_colour(index))
    return canvas


def _draw_instance(
    pixels: np.ndarray, mask: Mask, box: np.ndarray, colour: tuple[int, int, int], outcome: Outcome
) -> None:
    """Draw on `pixels` [H,W,3] a translucent mask with a contour inside it. A mask without a pixel shows its box."""
    part = _cover(mask, pixels.shape[:2])
    seen = masks.paint(mask, part)
    inside = seen
    if not seen.any():
        part = masks.touch(box, pixels.shape[:2])
        seen, inside = np.ones([max(side.stop - side.start, 0) for side in part], bool), np.zeros((), bool)
    shorter, longest = min(seen.shape), math.sqrt(pixels.shape[0] * pixels.shape[1]) / 250
    line = max(1, min(round(shorter / THICK), max(2, round(longest))))
    if not shorter:
        return
    window = np.ones((2 * line + 1,) * 2, np.uint8)
    core = cv2.erode(seen.view(np.uint8), window, borderType=cv2.BORDER_CONSTANT, borderValue=0).view(bool)
    y, x = np.ogrid[: seen.shape[0], : seen.shape[1]]
    contour = seen & ~core
    if outcome == Outcome.NOT_COUNTED:
        inside = inside & ((y + x) // STRIPE % 2 == 0)
    elif outcome == Outcome.FALSE_ALARM:
        contour &= (y + x) // STRIPE % 2 == 0
    edge = np.zeros(seen.shape, bool)
    if outcome == Outcome.MISSED:  # without a colour inside, only an edge that sets it off shows it on any image
        inside = np.zeros((), bool)
        edge = core & ~cv2.erode(core.view(np.uint8), window, borderType=cv2.BORDER_CONSTANT, borderValue=0).view(bool)
    canvas = pixels[part]
    # In strips: the intermediate arrays of all rows of a large instance would be gigabytes.
    for first in range(0, len(canvas), ROWS):
        rows = slice(first, first + ROWS)
        fill = inside[rows] & core[rows] if inside.ndim else inside & core[rows]
        canvas[rows][fill] = (OPACITY * np.array(colour) + (1 - OPACITY) * canvas[rows][fill]).round()
        canvas[rows][contour[rows]] = colour
        canvas[rows][edge[rows]] = ImageColor.getrgb(choose_ink(colour))


def _draw_marks(canvas: Image.Image, boxes: np.ndarray, outcomes: Sequence[Outcome]) -> None:
    """Draw the mark of each outcome in the middle of its box, black with a white border, where the box has room."""
    draw = ImageDraw.Draw(canvas)
    for (top, left, bottom, right), outcome in zip(boxes.tolist(), outcomes, strict=True):
        size = min(MARK, min(bottom - top, right - left) / 2)
        if size >= SMALLEST_MARK:
            for ink, line in (("white", 4), ("black", 2)):
                draw_mark(draw, outcome, ((left + right) / 2, (top + bottom) / 2), size, ink, line)


def _cover(mask: Mask, size: tuple[int, int]) -> Part:
    """Return the rows and columns of a picture of `size` that hold the mask, which must not be rotated."""
    (top, left), (height, width) = mask.corner, mask.pixels.shape
    (x0, y0, _), (x1, y1, _) = (mask.matrix @ point for point in ((left, top, 1), (left + width, top + height, 1)))
    return masks.touch(np.array([y0, x0, y1, x1]), size)


def _list_names(rows: Rows, class_names: Sequence[str]) -> list[str]:
    """List the name of each instance, which is its class if there are several, and its score if it has one."""
    named = [class_names[index] if len(class_names) > 1 else "" for index in rows["classes"].tolist()]
    scores = rows["scores"].tolist() if "scores" in rows else [math.nan] * len(named)
    written = ("" if math.isnan(score) else f"{score:.2f}" for score in scores)
    return [f"{name} {score}".strip() for name, score in zip(named, written, strict=True)]


def _draw_names(canvas: Image.Image, boxes: np.ndarray, names: list[str], colours: list[tuple[int, int, int]]) -> None:
    """Draw each name inside its box if the box is large enough, else next to it if that place is free, else nowhere."""
    text = max(12, round(math.sqrt(canvas.width * canvas.height) / 48))
    font, draw = load_font(text), ImageDraw.Draw(canvas)
    taken = np.zeros((0, 4))
    for index, name in enumerate(names):
        size = text * 5 // 4, math.ceil(font.getlength(name)) + text // 2
        place = _place_name(boxes, index, size, (canvas.height, canvas.width), taken) if name else None
        if place is not None:
            taken = np.concatenate([taken, place[None]])
            top, left, bottom, right = place.tolist()
            draw.rectangle((left, top, right - 1, bottom - 1), fill=colours[index])
            ink = choose_ink(colours[index])
            draw.text((left + text // 4, (top + bottom) / 2), name, fill=ink, font=font, anchor="lm")


def _place_name(
    boxes: np.ndarray, index: int, name: tuple[int, int], size: tuple[int, int], taken: np.ndarray
) -> np.ndarray | None:
    """Choose where (top, left, bottom, right) a name of the size `name` (height, width) stands in a picture of `size`.

    The place is in the name's box, above it or below it. It overlaps no `taken` place [M,4], and outside its own box no
    other box either. Returns None if the box is too small or no place is free.
    """
    box = boxes[index].round().astype(int).clip(0, [*size, *size])
    room = (box[2:] - box[:2]).prod() / math.prod(name)
    inside = room >= ROOM and (box[2:] - box[:2] >= name).all()
    others = np.concatenate([np.delete(boxes, index, 0), taken])
    left = min(box[1], size[1] - name[1])
    places = [(box[0], box[1], taken)] if inside else []
    places += [(top, left, others) for top in (box[0] - name[0], box[2]) if room >= SPACE]
    for top, left, obstacles in places:
        place = np.array([top, left, top + name[0], left + name[1]])
        hidden = np.all((place[:2] < obstacles[:, 2:]) & (obstacles[:, :2] < place[2:]), -1)
        if place.min() >= 0 and place[2] <= size[0] and place[3] <= size[1] and not hidden.any():
            return place
    return None


def draw_instance_sample(outcome: Outcome, size: int) -> Image.Image:
    """Draw an instance with its mark as the swatch of an outcome, `size` pixels high."""
    pixels = np.full((size, WIDE * size, 3), 255, np.uint8)
    whole = Mask(np.ones(pixels.shape[:2], bool))
    _draw_instance(pixels, whole, np.array([0, 0, *pixels.shape[:2]]), class_colour(0), outcome)
    swatch = Image.fromarray(pixels)
    _draw_marks(swatch, np.array([[0, 0, *pixels.shape[:2]]]), [outcome])
    return swatch


def list_instance_entries(every: Sequence[Rows], class_names: Sequence[str], least_score: float | None) -> list[Entry]:
    """List the legend's entries of the colours, one for each instance, and of the outcomes that are drawn."""
    return [(draw_colours, "a colour is one object"), *list_outcomes(every, draw_instance_sample, least_score)]


def draw_colours(size: int) -> Image.Image:
    """Draw the swatch of colours that do not mean classes, four squares of the palette."""
    swatch, half = Image.new("RGB", (size, size)), size // 2
    for index, (x, y) in enumerate(itertools.product((0, half), repeat=2)):
        swatch.paste(OKABE_ITO[index], (x, y, size, size))
    return swatch


INSTANCES = Style(draw_instance_rows, list_instance_entries)
FRAMED_INSTANCES = Style(draw_framed_rows, list_instance_entries)


def compare_instances(
    images: Sequence[np.ndarray],
    truths: Sequence[Rows],
    predictions: Sequence[Rows],
    class_names: Sequence[str],
    least_score: float = 0.0,
) -> np.ndarray:
    """Draw N examples of any sizes, ground truth and prediction side by side, with the legend below.

    `truths` have boxes, classes, masks, crowd and difficult; `predictions` have boxes, classes, masks and scores, and are
    drawn from `least_score` on. Hits, false alarms and missed objects, see `judge`, have other contours and marks. Crowds and
    difficult objects are striped. Return [H,W,3] uint8.
    """
    return compare(images, truths, predictions, INSTANCES, class_names, least_score)
