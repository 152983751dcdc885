"""Geometry as one coordinate map, and colour.

Everything that moves pixels (resize, flip, zoom, stretch, rotation, crop) composes into one 3x3 matrix from the source's
points to the output's, so an image is sampled once (linear) and a mask once (nearest). Points are (x, y) measured from
the top left corner; the centre of the first pixel is (0.5, 0.5).
"""

import cv2
import numpy as np
from ml_collections import ConfigDict

from input_pipeline.batch import IGNORE, DataError

Size = tuple[int, int]  # (height, width) in pixels
IDENTITY = np.eye(3)


def translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(x: float, y: float) -> np.ndarray:
    return np.diag([x, y, 1.0])


def rotation(degrees: float) -> np.ndarray:
    """Clockwise on the screen, about the origin."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def about(centre: tuple[float, float], matrix: np.ndarray) -> np.ndarray:
    """`matrix` with `centre` (x, y) in the place of the origin."""
    return translation(*centre) @ matrix @ translation(-centre[0], -centre[1])


def fit(source: Size, output: Size, how: str) -> np.ndarray:
    """The map that fills `output` with the whole image: "stretch", or "letterbox", which keeps its shape, centred."""
    vertical, horizontal = output[0] / source[0], output[1] / source[1]
    if how == "stretch":
        return scaling(horizontal, vertical)
    if how == "letterbox":
        scale = min(vertical, horizontal)
        return translation((output[1] - scale * source[1]) / 2, (output[0] - scale * source[0]) / 2) @ scaling(scale, scale)
    raise DataError(f"config.data.fit={how!r} is unknown; choose stretch or letterbox")


def draw_geometry(rng: np.random.Generator, size: Size, augment: ConfigDict) -> np.ndarray:
    """A random map of an output of `size` onto itself, by the fields of config.data.augment."""
    height, width = size
    zoom = np.exp(rng.uniform(*np.log(augment.scale)))
    stretch = np.exp(rng.uniform(-1.0, 1.0) * np.log(augment.aspect) / 2)
    mirror = -1.0 if rng.random() < augment.flip else 1.0
    shape = scaling(mirror * zoom / stretch, zoom * stretch)
    angle = rng.uniform(-augment.rotation, augment.rotation)
    matrix = about((width / 2, height / 2), rotation(angle) @ shape)
    # Where the zoomed image is larger than the output, another part of it is seen; where smaller, it lies elsewhere.
    room = np.abs([zoom / stretch - 1.0, zoom * stretch - 1.0]) / 2 * (width, height)
    shift = rng.uniform(-room, room) if augment.crop else (0.0, 0.0)
    return translation(*shift) @ matrix


def draw_displacement(rng: np.random.Generator, size: Size, augment: ConfigDict) -> np.ndarray | None:
    """An elastic deformation [H,W,2] in pixels, smooth noise of the given deviation (Simard et al. 2003); None for 0."""
    deviation, smoothing = augment.elastic
    if not deviation:
        return None
    noise = rng.standard_normal((*size, 2)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), smoothing)
    return smooth * np.float32(deviation / max(float(smooth.std()), 1e-6))


def warp_image(
    image: np.ndarray, matrix: np.ndarray, size: Size, fill: tuple[float, ...], displacement: np.ndarray | None = None
) -> np.ndarray:
    """[H,W,3] uint8 -> [*size,3] uint8, sampled linearly; `fill` is the colour outside.

    An image that shrinks to less than half is averaged down first: linear sampling alone would skip pixels.
    """
    shrink = int(1.0 / max(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))), 1e-6))
    if shrink > 1:
        height, width = (max(1, length // shrink) for length in image.shape[:2])
        matrix = matrix @ scaling(image.shape[1] / width, image.shape[0] / height)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return _warp(image, matrix, size, cv2.INTER_LINEAR, fill, displacement)


def warp_label(label: np.ndarray, matrix: np.ndarray, size: Size, displacement: np.ndarray | None = None) -> np.ndarray:
    """[H,W] uint8 -> [*size] uint8, the nearest pixel's class; IGNORE outside."""
    return _warp(label, matrix, size, cv2.INTER_NEAREST, (IGNORE,), displacement)


def _warp(array, matrix, size, interpolation, fill, displacement):
    # From the output's pixel indices to the source's: OpenCV counts from the centre of the first pixel.
    inverse = translation(-0.5, -0.5) @ np.linalg.inv(matrix) @ translation(0.5, 0.5)
    border = dict(borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    if displacement is None:
        return cv2.warpAffine(array, inverse[:2], size[::-1], flags=interpolation | cv2.WARP_INVERSE_MAP, **border)
    rows, columns = np.indices(size, np.float32)
    points = np.stack([columns, rows], -1) + displacement
    places = points @ inverse[:2, :2].T.astype(np.float32) + inverse[:2, 2].astype(np.float32)
    return cv2.remap(array, places, None, interpolation, **border)


def draw_colours(rng: np.random.Generator, image: np.ndarray, augment: ConfigDict) -> np.ndarray:
    """The image under random brightness, contrast, saturation and hue, by the fields of config.data.augment."""
    changed = image.astype(np.float32)
    if augment.brightness:
        changed = adjust_brightness(changed, rng.uniform(1 - augment.brightness, 1 + augment.brightness))
    if augment.contrast:
        changed = adjust_contrast(changed, rng.uniform(1 - augment.contrast, 1 + augment.contrast))
    if augment.saturation:
        changed = adjust_saturation(changed, rng.uniform(1 - augment.saturation, 1 + augment.saturation))
    if augment.hue:
        changed = adjust_hue(changed, rng.uniform(-augment.hue, augment.hue))
    return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """float32 RGB, 0..255 on both sides of each of these."""
    return image * np.float32(factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Differences to the image's mean grey, times `factor`."""
    mean = np.float32(_grey(image).mean())
    return (image - mean) * np.float32(factor) + mean


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Differences to each pixel's grey, times `factor`."""
    grey = _grey(image)[..., None]
    return (image - grey) * np.float32(factor) + grey


def adjust_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Every colour turned around the grey axis by `turns` of the wheel, brightness kept (YIQ rotation)."""
    angle = 2 * np.pi * turns
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return image @ (np.linalg.inv(to_yiq) @ turn @ to_yiq).T.astype(np.float32)


def _grey(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114], np.float32)
