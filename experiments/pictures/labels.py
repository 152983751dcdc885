"""Pictures of label maps over an image, and of predictions next to the ground truth.

Images are [H,W,3] uint8 RGB, label maps [H,W] uint8 with a class index in each pixel and 255 where a pixel is unlabelled.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from experiments.pictures.legend import list_label_classes
from experiments.pictures.pairs import TILE, arrange
from experiments.pictures.palette import choose_ink, colour_mask, find_background, palette
from input_pipeline.batch import IGNORE

OPACITY = 0.6  # of a class colour over the grey image
ROWS = 256  # drawn at a time: the intermediate arrays of all rows of a large image would be gigabytes
OUTLINE = 500  # pixels of the longer side for each pixel of an outline
THICKEST = 3  # pixels of an outline


def grey(image: np.ndarray) -> np.ndarray:
    """Return the brightness of an image, [H,W,1] float64 from 0 to 255. Every hue drawn on it then has a meaning."""
    return (image @ np.array([0.299, 0.587, 0.114]))[..., None]


def turn_grey(image: np.ndarray) -> np.ndarray:
    """Return the brightness of an image, [H,W,3] uint8."""
    turned = np.empty(image.shape, np.uint8)
    for first in range(0, len(image), ROWS):
        rows = slice(first, first + ROWS)
        turned[rows] = grey(image[rows]).round()
    return turned


def overlay(image: np.ndarray, label: np.ndarray, background: int | None = None) -> np.ndarray:
    """Draw the colours of the classes over the image, which turns grey, so that every hue is a class.

    The class `background` has no colour: the grey image shows there. The pixels of other classes have the full colour
    within 1 to 3 pixels of another class, by the image's size. Where a class borders the background, a black or white
    line lies in the background: the one that contrasts with the class's colour, so that the outline can be seen on dark
    and bright images. Return [H,W,3] uint8.
    """
    drawn = np.empty(image.shape, np.uint8)
    reach = measure_outline(label.shape)
    for first in range(0, len(label), ROWS):
        rows, start = slice(first, first + ROWS), max(0, first - reach)
        part, inner = label[start : first + ROWS + reach], slice(first - start, first - start + ROWS)
        other, part = _find_other(part, reach)[inner], part[inner]
        colours, shades = colour_mask(part), grey(image[rows])
        border = other != part
        opacity = np.where(border, 1.0, OPACITY)[..., None]
        drawn[rows] = (opacity * colours + (1 - opacity) * shades).round()
        if background is not None:
            behind = part == background
            drawn[rows][behind] = shades[behind].round()
            line = behind & border & (other != IGNORE)
            drawn[rows][line] = _list_inks()[other[line]][:, None]
    return drawn


def measure_outline(shape: Sequence[int]) -> int:
    """Return how many pixels wide an outline is in a picture of `shape` (height, width, ...)."""
    return min(THICKEST, max(1, round(max(shape[:2]) / OUTLINE)))


def _find_other(label: np.ndarray, reach: int) -> np.ndarray:
    """Return for each pixel [H,W] another class within `reach` pixels, its own if there is none."""
    window = np.ones((2 * reach + 1,) * 2, np.uint8)
    largest = cv2.dilate(label, window)
    return np.where(largest != label, largest, cv2.erode(label, window))


def _list_inks() -> np.ndarray:
    """Return for each class index the grey level of the ink that contrasts with its colour, [256] uint8."""
    return np.array([0 if choose_ink(colour) == "black" else 255 for colour in palette()], np.uint8)


def draw_tiles(
    image: np.ndarray, labels: Sequence[np.ndarray], class_names: Sequence[str], longer: int = TILE
) -> list[np.ndarray]:
    """Draw an image, and each of its label maps over it. The longer side of each becomes `longer` pixels."""
    factor = longer / max(image.shape[:2])
    height, width = (max(1, round(factor * side)) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    resized = (cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST) for label in labels)
    return [image, *(overlay(image, label, find_background(class_names)) for label in resized)]


def compare_labels(
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
) -> np.ndarray:
    """Draw N examples of any sizes, with image, ground truth and prediction side by side, and the legend below.

    Each example keeps its proportions. The legend has the classes that occur. Return [H,W,3] uint8.
    """
    tiles = [draw_tiles(image, pair, class_names) for image, *pair in zip(images, labels, predictions, strict=True)]
    entries = list_label_classes((*labels, *predictions), class_names)
    return arrange(tiles, ("image", "ground truth", "prediction"), entries)
