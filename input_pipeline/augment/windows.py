"""SSD's windows, the part of an image or of a larger canvas around it that a training example shows.

The crops follow Liu et al. 2016, section 2.2, "Data augmentation". The zoom-out follows section 3.6 of its longer version.
"""

import math

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.augment.geometry import Window
from input_pipeline.batch import Size
from input_pipeline.objects import Objects, clip, has_area, overlap

WHOLE = None
CONSTRAINTS = (WHOLE, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # the whole canvas, or the least overlap with an object
TRIES = 50  # patches that are drawn to meet a constraint
SHARE = (0.1, 1.0)  # of the canvas's area
ASPECT = 2.0  # height against width lies in [1 / ASPECT, ASPECT]


def draw_window(rng: np.random.Generator, size: Size, objects: Objects, augment: ConfigDict) -> Window:
    """Draw the window to show of an image of `size`. It is the whole image without augment.zoom_out and iou_crop."""
    window = (0, 0, *size)
    probability, largest = augment.zoom_out
    if rng.random() < probability:
        window = zoom_out(rng, size, largest)
    return crop(rng, window, size, objects) if augment.iou_crop else window


def zoom_out(rng: np.random.Generator, size: Size, largest: float) -> Window:
    """Draw a canvas of 1 to `largest` times the image's sides, with the image at a random place."""
    factor = rng.uniform(1.0, largest)
    height, width = (round(factor * length) for length in size)
    above, before = (int(rng.integers(outer - length + 1)) for outer, length in zip((height, width), size, strict=True))
    return -above, -before, height - above, width - before


def crop(rng: np.random.Generator, canvas: Window, size: Size, objects: Objects) -> Window:
    """Draw a patch of `canvas` that meets a random constraint, among those that can be met.

    The whole canvas always meets one. A patch shows a part of the image, whose size is `size`. It need not overlap with a crowd.
    """
    wanted = objects["boxes"][~objects["crowd"]]
    while True:
        least = CONSTRAINTS[rng.integers(len(CONSTRAINTS))]
        if least is WHOLE:
            return canvas
        patches = draw_patches(rng, canvas)
        most = overlap(patches, wanted).max(1, initial=0.0)
        good = patches[(most >= least) & has_area(clip(patches, (0, 0, *size)))]
        if len(good):
            return tuple(good[0].tolist())


def draw_patches(rng: np.random.Generator, canvas: Window) -> np.ndarray:
    """Draw random patches [K,4] int, K <= TRIES, on whole pixels of `canvas`. Patches larger than it are left out."""
    top, left, bottom, right = canvas
    height, width = bottom - top, right - left
    area = rng.uniform(*SHARE, TRIES) * height * width
    aspect = np.exp(rng.uniform(-1.0, 1.0, TRIES) * math.log(ASPECT))
    tall, wide = (np.rint(np.sqrt(sides)).astype(int) for sides in (area * aspect, area / aspect))
    above, before = rng.random((2, TRIES))
    above, before = ((above * (height - tall + 1)).astype(int), (before * (width - wide + 1)).astype(int))
    patches = np.stack([top + above, left + before, top + above + tall, left + before + wide], -1)
    return patches[(tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)]


def have_centre(boxes: np.ndarray, window: Window) -> np.ndarray:
    """Return whether the centre of each box [N,4] lies in `window`, [N] bool."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.all((centre >= window[:2]) & (centre < window[2:]), axis=-1)
