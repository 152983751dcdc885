"""Random colours, a table of config.data.augment's fields. A new one is a function and a row of the table."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict


def draw_colours(rng: np.random.Generator, image: np.ndarray, augment: ConfigDict) -> np.ndarray:
    """Return the image under random changes, in the order of COLOURS. Nothing is drawn for a field that is 0."""
    changed = image.astype(np.float32)
    for field, (draw_range, adjust) in COLOURS.items():
        if augment[field]:
            changed = adjust(changed, rng.uniform(*draw_range(augment[field])))
    return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply an image by `factor`. The image and the result are float32 RGB, 0..255, in all these functions."""
    return image * np.float32(factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the differences to the image's mean grey by `factor`."""
    mean = np.float32(_grey(image).mean())
    return (image - mean) * np.float32(factor) + mean


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the differences to each pixel's grey by `factor`."""
    grey = _grey(image)[..., None]
    return (image - grey) * np.float32(factor) + grey


def adjust_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Turn every colour around the grey axis by `turns` of the wheel and keep the brightness (YIQ rotation)."""
    angle = 2 * np.pi * turns
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return image @ (np.linalg.inv(to_yiq) @ turn @ to_yiq).T.astype(np.float32)


def _grey(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)


def _around_one(strength: float) -> tuple[float, float]:
    return 1 - strength, 1 + strength


def _around_zero(strength: float) -> tuple[float, float]:
    return -strength, strength


DrawRange = Callable[[float], tuple[float, float]]  # a field's value -> the range that the adjustment is drawn from
COLOURS: dict[str, tuple[DrawRange, Callable[[np.ndarray, float], np.ndarray]]] = {
    "brightness": (_around_one, adjust_brightness),
    "contrast": (_around_one, adjust_contrast),
    "saturation": (_around_one, adjust_saturation),
    "hue": (_around_zero, adjust_hue),
}
