"""Pictures of label maps: over the image, and predictions next to the ground truth.

Images are [H,W,3] uint8 RGB, label maps [H,W] uint8 with a class index in each pixel and 255 where there is none.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.pictures.legend import ROWS_OF_ONE_COLUMN, draw_legend, lay_legend, list_classes
from experiments.pictures.palette import INK, colour_mask

OPACITY = 0.6  # of a class colour over the grey image
ROWS = 256  # that are drawn at a time: of all rows of a large image the numbers in between would be gigabytes
SMALLEST_TILE = 192  # pixels of the shorter side; smaller images are enlarged by a whole factor
LARGEST_TILE = 768  # pixels of the longer side that enlarging does not exceed


def grey(image: np.ndarray) -> np.ndarray:
    """Return the brightness of an image, [H,W,1] float64 from 0 to 255: every hue drawn on it is then a meaning."""
    return (image @ np.array([0.299, 0.587, 0.114]))[..., None]


def turn_grey(image: np.ndarray) -> np.ndarray:
    """Return the brightness of an image, [H,W,3] uint8."""
    turned = np.empty(image.shape, np.uint8)
    for first in range(0, len(image), ROWS):
        rows = slice(first, first + ROWS)
        turned[rows] = grey(image[rows]).round()
    return turned


def overlay(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Draw the colours of the classes over the image, which turns grey, so that every hue is a class.

    The borders between classes have the full colour. Returns [H,W,3] uint8.
    """
    drawn = np.empty(image.shape, np.uint8)
    for first in range(0, len(label), ROWS):
        rows, below = slice(first, first + ROWS), label[first + 1 : first + ROWS + 1]
        part = label[rows]
        colours = colour_mask(part)
        blend = (OPACITY * colours + (1 - OPACITY) * grey(image[rows])).round().astype(np.uint8)
        border = np.zeros(part.shape, bool)
        border[:, :-1] |= part[:, :-1] != part[:, 1:]
        border[: len(below)] |= part[: len(below)] != below
        drawn[rows] = np.where(border[..., None], colours, blend)
    return drawn


def draw_label(image: np.ndarray, label: np.ndarray, longer: int) -> np.ndarray:
    """Draw an image and its label over it side by side, each with a longer side of `longer` pixels. Returns [H,W,3] uint8."""
    factor = longer / max(label.shape)
    size = tuple(max(1, round(factor * side)) for side in label.shape[::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    return np.concatenate([image, overlay(image, label)], 1)


def compare_labels(
    images: np.ndarray, labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Draw N examples: image, ground truth and prediction side by side, titles above, the legend below.

    `images` [N,H,W,3], `labels` and `predictions` [N,H,W]. Small images are enlarged. The legend has the classes that
    occur. Returns [H,W,3] uint8.
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
    entries = list_classes((labels, predictions), class_names)
    legend, places = lay_legend(entries, font, total - 4 * gap)
    canvas = Image.new("RGB", (total, bottom + legend + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for column in range(columns):
        for part, name in enumerate(("image", "ground truth", "prediction")):
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
