"""Geometry as one coordinate map.

Everything that moves pixels (resize, flip, zoom, stretch, rotation, crop) composes into one 3x3 matrix from the source's
points to the output's, so an image is sampled once (linear) and a mask once (nearest). Points are (x, y) measured from
the top left corner; the centre of the first pixel is (0.5, 0.5).
"""

import cv2
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.batch import IGNORE, Size

Window = tuple[int, int, int, int]  # (top, left, bottom, right) in pixels; it may reach beyond the image
IDENTITY = np.eye(3)
LONGEST = 32_766  # pixels of a side that OpenCV samples


def translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def scaling(x: float, y: float) -> np.ndarray:
    return np.diag([x, y, 1.0])


def rotation(degrees: float) -> np.ndarray:
    """Return a rotation about the origin, clockwise on the screen."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def about(centre: tuple[float, float], matrix: np.ndarray) -> np.ndarray:
    """Return `matrix` with `centre` (x, y) as its origin."""
    return translation(*centre) @ matrix @ translation(-centre[0], -centre[1])


def inner(size: Size, margin: int) -> Size:
    """Return the size inside the margin of a canvas or a training example, which is what a model predicts."""
    return size[0] - 2 * margin, size[1] - 2 * margin


def check_canvas(field: str, size: Size, data: ConfigDict) -> None:
    """Raise UserError if config.data's `field` of `size` is too large, or nothing is left inside config.data.margin."""
    if 2 * data.margin >= min(size):
        raise UserError(
            f"config.data.margin={data.margin} leaves nothing of config.data.{field}={size}; lower the one or raise the other"
        )
    if max(size) > LONGEST or size[0] * size[1] > data.max_pixels:
        raise UserError(
            f"config.data.{field}={size} is too large; choose at most {data.max_pixels:,} pixels (config.data.max_pixels), and "
            f"at most {LONGEST:,} for a side"
        )


def scale_shortest(source: Size, shortest: tuple[float, float]) -> Size:
    """Return the size of an image of size `source` with `shortest`[0] pixels on its shorter side.

    The scale is smaller where the longer side would exceed `shortest`[1]. Sides are rounded down, as in torchvision's detectors.
    """
    scale = min(shortest[0] / min(source), shortest[1] / max(source))
    return max(int(source[0] * scale), 1), max(int(source[1] * scale), 1)


def fit(
    source: Size, output: Size, how: str, margin: int = 0, shortest: tuple[float, float] | None = None
) -> np.ndarray:
    """Return the map that brings the whole image into `output`, less `margin` at each side.

    "stretch" fills the output. "letterbox" keeps the image's shape and centres it. "crop" also keeps its scale, and cuts a
    larger image. "shortest" gives it the size of `scale_shortest`, or the largest one of its shape that fits, at the top left.
    """
    tall, wide = inner(output, margin)
    vertical, horizontal = tall / source[0], wide / source[1]
    if how == "stretch":
        return translation(margin, margin) @ scaling(horizontal, vertical)
    if how == "shortest":
        assert shortest is not None
        height, width = scale_shortest(source, shortest)
        if height > tall or width > wide:
            height, width = (max(round(min(vertical, horizontal) * length), 1) for length in source)
        return translation(margin, margin) @ scaling(width / source[1], height / source[0])
    scale = min(vertical, horizontal) if how == "letterbox" else 1.0
    # Whole pixels: an image that fits as it is must not be blurred by a shift of half a pixel.
    height, width = (max(round(scale * length), 1) for length in source)
    corner = translation(margin + (wide - width) // 2, margin + (tall - height) // 2)
    return corner @ scaling(width / source[1], height / source[0])


def draw_map(rng: np.random.Generator, shown: Size, size: Size, data: ConfigDict) -> np.ndarray:
    """Draw a map [3,3] from the points of an image, or a window, of size `shown` to those of an output of `size`."""
    fitted = fit(shown, size, data.fit, data.margin, data.shortest)
    content = (shown[0] * fitted[1, 1], shown[1] * fitted[0, 0])
    return draw_geometry(rng, size, data.augment, content, data.margin, corner=data.fit == "shortest") @ fitted


def draw_geometry(
    rng: np.random.Generator,
    size: Size,
    augment: ConfigDict,
    content: Size | None = None,
    margin: int = 0,
    corner: bool = False,
) -> np.ndarray:
    """Draw a map of an output of `size` onto itself, by the fields of config.data.augment.

    `content` is the size of the image in the middle of the output, or at its top left if `corner` is set. It defaults to the
    output's size. Without a crop the image stays there: mirrored and zoomed, it still begins at the corner, and if it is larger
    than the output, its centre is visible. A crop's position is drawn for the part of the output inside `margin`, which has
    labels.
    """
    height, width = size
    zoom = np.exp(rng.uniform(*np.log(augment.scale)))
    stretch = np.exp(rng.uniform(-1.0, 1.0) * np.log(augment.aspect) / 2)
    mirror = -1.0 if rng.random() < augment.flip else 1.0
    # No number is drawn for 0, so runs from before this field existed repeat exactly.
    upside_down = -1.0 if augment.vertical_flip and rng.random() < augment.vertical_flip else 1.0
    shape = scaling(mirror * zoom / stretch, upside_down * zoom * stretch)
    angle = rng.uniform(-augment.rotation, augment.rotation)
    tall, wide = content or inner(size, margin)
    middle = (margin + wide / 2, margin + tall / 2) if corner else (width / 2, height / 2)  # of the content
    matrix = translation(width / 2, height / 2) @ (rotation(angle) @ shape) @ translation(-middle[0], -middle[1])
    # A zoomed image that is larger than the output shows another part; a smaller one lies elsewhere.
    excess = np.array([zoom / stretch * wide - (width - 2 * margin), zoom * stretch * tall - (height - 2 * margin)])
    room = np.abs(excess) / 2
    at_rest = np.minimum(excess, 0) / 2 if corner else np.zeros(2)
    shift = rng.uniform(-room, room) if augment.crop else at_rest
    if augment.translate:
        shift += rng.uniform(-augment.translate, augment.translate, 2) * (width, height)
    return translation(*shift) @ matrix


def draw_displacement(rng: np.random.Generator, size: Size, augment: ConfigDict) -> np.ndarray | None:
    """Draw an elastic deformation [H,W,2] in pixels (Simard et al. 2003), or return None for a deviation of 0."""
    deviation, smoothing = augment.elastic
    if not deviation:
        return None
    noise = rng.standard_normal((*size, 2)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), smoothing)
    return smooth * np.float32(deviation / max(float(smooth.std()), 1e-6))


def sample(
    image: np.ndarray, matrix: np.ndarray, size: Size, data: ConfigDict, displacement: np.ndarray | None = None
) -> np.ndarray:
    """Warp [H,W,3] uint8 to [*size,3] uint8 with the border and the sampling of config.data, as `warp_image`."""
    fill = None if data.border == "mirror" else data.mean
    return warp_image(image, matrix, size, fill, displacement, data.antialias)


def warp_image(
    image: np.ndarray,
    matrix: np.ndarray,
    size: Size,
    fill: tuple[float, ...] | None,
    displacement: np.ndarray | None = None,
    antialias: bool = True,
) -> np.ndarray:
    """Warp [H,W,3] uint8 to [*size,3] uint8, sampled linearly.

    `fill` is the colour outside the image; None mirrors the image. With `antialias` a side that shrinks to less than half is
    averaged down first, because linear sampling alone skips pixels.
    """
    steps = np.hypot(*np.linalg.inv(matrix)[:2, :2].T)  # source pixels, along x and y, to one pixel of the output
    shrink_x, shrink_y = np.maximum((steps + 1e-6).astype(int), 1)
    if antialias and (shrink_x > 1 or shrink_y > 1):
        height, width = max(1, round(image.shape[0] / shrink_y)), max(1, round(image.shape[1] / shrink_x))
        matrix = matrix @ scaling(image.shape[1] / width, image.shape[0] / height)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    x, y = _places(matrix, size, displacement)
    # OpenCV counts from the centre of the first pixel. The border repeats so that `fill` does not bleed into the image.
    border = cv2.BORDER_REFLECT_101 if fill is None else cv2.BORDER_REPLICATE
    part, columns, rows = image, x - 0.5, y - 0.5
    if max(image.shape[:2]) > LONGEST:
        part, columns, rows = _cut_out(image, columns, rows, mirror=fill is None)
    columns, rows = columns.astype(np.float32), rows.astype(np.float32)
    result = cv2.remap(part, columns, rows, cv2.INTER_LINEAR, borderMode=border)
    if fill is not None:
        outside = _pixels(image.shape[:2], x, y)[2]
        if outside.any():
            result[outside] = np.rint(fill)
    return result


def warp_label(
    label: np.ndarray, matrix: np.ndarray, size: Size, displacement: np.ndarray | None = None, fill: int = IGNORE
) -> np.ndarray:
    """Warp [H,W] to [*size] of the same dtype, by the nearest pixel. `fill` is the value outside, even of mirrored images."""
    row, column, outside = _pixels(label.shape, *_places(matrix, size, displacement))
    return np.where(outside, label.dtype.type(fill), label[row, column])


def cut(window: Window, size: Size, matrix: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the rows and columns of an image of `size` inside `window`, and `matrix` for the points of that part."""
    top, left, bottom, right = window
    rows, columns = slice(max(top, 0), min(bottom, size[0])), slice(max(left, 0), min(right, size[1]))
    return (rows, columns), matrix @ translation(columns.start, rows.start)


def _cut_out(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, mirror: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut out the part of a long image that holds the places x and y, counted from the centre of the first pixel.

    Return it with the places in it. Places outside the image are mirrored into it, or moved to its border. Raise UserError if
    the part is too long as well.
    """
    bounds, places = [], []
    for place, length in ((y, image.shape[0]), (x, image.shape[1])):
        last = length - 1
        place = np.abs((place + last) % max(2 * last, 1) - last) if mirror else np.clip(place, 0, last)
        start, end = int(place.min()), min(int(place.max()) + 2, length)
        if end - start > LONGEST:
            raise UserError(
                f"an image side of {length} pixels is too long to sample at once; set config.data.antialias=True"
            )
        bounds.append(slice(start, end))
        places.append(place - start)
    return image[*bounds], places[1], places[0]


def _places(matrix: np.ndarray, size: Size, displacement: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the places x and y in the source, each [*size], of the centres of the output's pixels."""
    inverse = np.linalg.inv(matrix)
    x, y = np.arange(size[1])[None, :] + 0.5, np.arange(size[0])[:, None] + 0.5
    if displacement is not None:
        x, y = x + displacement[..., 0], y + displacement[..., 1]
    return tuple(row[0] * x + (row[1] * y + row[2]) for row in inverse[:2])


def _pixels(source: Size, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row and column of the source's nearest pixel to each place, and whether the place is outside the source."""
    column, row = (np.floor(place + 1e-9).astype(np.int32) for place in (x, y))  # no edge is missed by rounding
    height, width = source
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    return row.clip(0, height - 1), column.clip(0, width - 1), outside
