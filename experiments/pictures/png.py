"""PNG files: whole, or not there at all."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.pictures.palette import palette
from files import write_atomically


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write [H,W,3] RGB or [H,W] grey uint8 as PNG, whole or not at all. Raises UserError where the disk refuses."""
    _write(path, Image.fromarray(picture))


def write_mask(path: Path, label: np.ndarray) -> None:
    """Write a label map as a palette PNG: the pixels are class indices, and every viewer shows their colours."""
    mask = Image.fromarray(label)
    mask.putpalette(palette().tobytes())
    _write(path, mask)


def _write(path: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())
