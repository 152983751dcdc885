"""The colours of classes, which are the same in every run, and the ink that contrasts with them.

Images are [H,W,3] uint8 RGB, label maps [H,W] uint8 with a class index in each pixel and 255 where a pixel is unlabelled.
"""

import functools
from collections.abc import Sequence

import numpy as np

from input_pipeline.batch import IGNORE

HATCH = ((148, 148, 148), (196, 196, 196))  # stripes of unlabelled pixels
INK = (60, 60, 60)
FAINT = (222, 222, 222)  # of a grid
SHADES = ((247, 251, 255), (92, 158, 208), (8, 40, 96))  # 0, 50 and 100 percent: darker is more, in grey as well
BACKGROUNDS = {
    "background",
    "bg",
    "void",
    "none",
    "nothing",
    "unlabelled",
    "unlabeled",
}  # names of a class without objects

# Okabe and Ito's colours, which differ with every common kind of colour blindness; "Color Universal Design", 2008.
OKABE_ITO = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66))

# Linear RGB as seen without the red, and without the green cones: Vienot, Brettel and Mollon, 1999.
PROTANOPIA = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
DEUTERANOPIA = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))

# Linear RGB to the cones, and their cube roots to lightness and two opponent colours: Ottosson, "Oklab", 2020.
CONES = ((0.412221, 0.536333, 0.051446), (0.211903, 0.680700, 0.107397), (0.088302, 0.281719, 0.629979))
OKLAB = ((0.210454, 0.793618, -0.004072), (1.977998, -2.428592, 0.450594), (0.025904, 0.782772, -0.808676))


@functools.cache
def palette() -> np.ndarray:
    """Return the colour of each class index, [256,3] uint8. Index 255, unlabelled, is grey.

    The colours of Okabe and Ito come first. Each further colour is the one farthest from all before it, with any kind of
    colour vision.
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
    """Return the colour of an object's class. The colours repeat after 255 classes, and no class is grey."""
    return tuple(palette()[index % IGNORE].tolist())


def find_background(class_names: Sequence[str]) -> int | None:
    """Return the index of the first class that is named as the background, None if there is none.

    The names are `background`, `bg`, `void`, `none`, `nothing`, `unlabelled` and `unlabeled`, in capitals too. Pictures
    of label maps do not colour this class.
    """
    return next((index for index, name in enumerate(class_names) if name.casefold() in BACKGROUNDS), None)


def _appearance(colours: np.ndarray) -> np.ndarray:
    """Convert [N,3] sRGB colours to [3,N,3] Oklab, seen with all cones, without the red and without the green ones."""
    value = colours / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    views = np.stack([linear, linear @ np.transpose(PROTANOPIA), linear @ np.transpose(DEUTERANOPIA)])
    return np.cbrt(np.maximum(views, 0) @ np.transpose(CONES)) @ np.transpose(OKLAB)


def _distance(colours: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the smallest distance [N] over the kinds of vision. Normal vision, which most people have, counts most."""
    return np.min(np.linalg.norm(colours - other, axis=-1) * np.array([[1.0], [1.5], [1.5]]), axis=0)


def colour_mask(label: np.ndarray) -> np.ndarray:
    """Draw each pixel in the colour of its class, [H,W,3] uint8. Unlabelled pixels are hatched in grey."""
    y, x = np.ogrid[: label.shape[0], : label.shape[1]]
    hatch = np.array(HATCH, np.uint8)[(y + x) // 4 % 2]
    return np.where((label == IGNORE)[..., None], hatch, palette()[label])


def choose_ink(colour: Sequence[int]) -> str:
    """Return "black" or "white", the one with more contrast to `colour` by the web's guidelines (WCAG)."""
    return "black" if (luminance(colour) + 0.05) ** 2 > 0.05 * 1.05 else "white"


def luminance(colour: Sequence[int]) -> float:
    """Return the luminance of an sRGB colour, 0 to 1."""
    value = np.asarray(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
