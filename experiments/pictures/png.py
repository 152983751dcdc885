"""PNG files, which are written whole or not at all."""

import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.pictures.palette import palette
from files import write_atomically


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write [H,W,3] RGB or [H,W] grey uint8 as PNG, whole or not at all. Raise UserError if that fails."""
    _write(path, Image.fromarray(picture))


def write_mask(path: Path, label: np.ndarray) -> None:
    """Write a label map as a palette PNG, whose pixels are class indices that every viewer shows in colours."""
    mask = Image.fromarray(label)
    mask.putpalette(palette().tobytes())
    _write(path, mask)


def write_new_png(path: Path, picture: np.ndarray) -> Path:
    """Write [H,W,3] RGB uint8 as PNG to `path`. If that holds something else, write NAME-2.png, NAME-3.png ...

    Return the file that holds the picture. A file that already holds it stays as it is.
    """
    content = _encode(Image.fromarray(picture))
    places = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    for place in places:
        if not place.exists():
            write_atomically(place, content)
            return place
        if place.is_file() and place.read_bytes() == content:
            return place
    raise AssertionError("there is always a further number")


def _write(path: Path, image: Image.Image) -> None:
    write_atomically(path, _encode(image))


def _encode(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    return encoded.getvalue()
