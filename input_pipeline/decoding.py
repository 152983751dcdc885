"""Image files to arrays, with Pillow only: the same pixels on every platform, and an error where a file is cut short.

The file's content decides, not its name: a JPEG that is really a GIF or a PNG loads. Pixels are taken as they are stored.
An EXIF orientation is not applied, to images or masks, so that a mask made from the stored pixels always fits its image.
"""

import io
import pathlib

import numpy as np
from PIL import Image

from errors import UserError
from input_pipeline.batch import refuse

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The image files in a folder, sorted. Names that begin with a dot are the file system's, not the user's."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def decode_image(data: bytes, name: str) -> np.ndarray:
    """RGB pixels [H, W, 3] uint8 of an encoded image: grey is repeated, transparency dropped, 16-bit grey divided by 257.

    Raises UserError, naming the image by `name`, when the bytes cannot be decoded.
    """
    image = _load(data, name)
    if image.mode.startswith("I"):
        return np.repeat(_grey16_to_uint8(np.asarray(image), name)[..., None], 3, axis=2)
    if image.mode == "F":
        raise UserError(f"{name}: pixels are floating point numbers; store the image with 8 or 16 bits per channel")
    return np.asarray(image.convert("RGB"))


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """The values of an encoded mask: [H, W] integers (palette index or grey, 8 or 16 bits), or [H, W, 3] uint8 colours.

    Raises UserError, naming the mask by `name`, when the bytes cannot be decoded.
    """
    image = _load(data, name)
    match image.mode:
        case "1":
            return np.asarray(image).astype(np.uint8)
        case "LA":
            return np.asarray(image)[..., 0]
        case "P" | "L":
            return np.asarray(image)
        case mode if mode.startswith("I"):
            return np.asarray(image).astype(np.int32)
        case _:
            return np.asarray(image.convert("RGB"))


def decode_colours(data: bytes, name: str) -> np.ndarray:
    """The colours [H, W, 3] uint8 of an encoded mask, of any kind: palettes are looked up and grey is repeated."""
    return np.asarray(_load(data, name).convert("RGB"))


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) of an encoded image, from its header alone."""
    with _open(data, name) as image:
        return image.height, image.width


def refuse_unreadable(where: str, unreadable: list[str]) -> None:
    """Raises UserError that names files that cannot be decoded, unless there are none."""
    remedy = "; repair them, or leave them out with config.data.folder.drop_unreadable=True"
    refuse(f"{where}: files that cannot be decoded", unreadable, remedy)


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of [H, W] uint8 or uint16, or [H, W, 3] uint8. The pixels are exact; the bytes depend on the zlib used."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:  # on bad bytes decoders raise errors of any type
        raise UserError(f"{name}: cannot be decoded as an image ({_reason(error)})") from error


def _load(data: bytes, name: str) -> Image.Image:
    image = _open(data, name)
    try:
        image.load()
    except Exception as error:
        raise UserError(f"{name}: cannot be decoded as an image ({_reason(error)})") from error
    return image


def _reason(error: Exception) -> str:
    return "not an image format Pillow knows" if "BytesIO" in str(error) else f"{type(error).__name__}: {error}"


def _grey16_to_uint8(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{name}: grey values beyond 16 bits; store the image with 8 or 16 bits per channel")
    return (values // 257).astype(np.uint8)
