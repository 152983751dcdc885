"""Decoding of image files. All platforms give the same pixels, and a truncated file is an error.

The file's content decides, not its name: a .jpg that is really a GIF or a PNG loads. An image is read upright, as its EXIF
orientation says and as every viewer shows it, unless the caller asks for the stored view. A file that is not one still grey or
colour image is refused in one line that names its content (`contents`).

Samples of 9 to 16 bits become 8 bits: 0 stays 0, and `white` and larger values become 255.
"""

import io
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from errors import UserError
from files import read_bytes
from input_pipeline import contents
from input_pipeline.batch import Size, refuse
from limits import BYTES_PER_PIXEL, IMAGE_METADATA

SUFFIXES = tuple(sorted(suffix for suffix, kind in Image.registered_extensions().items() if kind in contents.FORMATS))
# Annotations and notes, which are not reported as unread images.
TEXT = (".txt", ".xml", ".json", ".yaml", ".yml", ".csv", ".md", ".cache")
RAW = (".arw", ".cr2", ".dng", ".nef", ".nrw", ".orf", ".pef", ".rw2", ".srw")  # TIFFs whose first page is a preview
WHITE = 65535  # the largest value of 16 bits
LEVELS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # largest values of cameras and scanners in 16-bit files
LARGEST = 178_956_970  # pixels: half a gigabyte of memory
TURNS = {  # by EXIF's orientation, the function that turns the stored pixels upright
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
BACK = {6: 8, 8: 6}  # the inverse turns; the others are their own inverse

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # else it reports damaged files on stderr itself
Image.MAX_IMAGE_PIXELS = None  # the limit is `largest`, and our error names the field to change


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the image files in a folder, sorted. Hidden files (names with a leading dot) are left out."""
    return [path for path in _list_files(folder) if is_image(path)]


def list_others(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files in a folder that are neither images nor text, sorted."""
    return [path for path in _list_files(folder) if not is_image(path) and path.suffix.lower() not in TEXT]


def _list_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != "." and not path.is_dir())


def is_image(path: pathlib.Path) -> bool:
    """Return whether a file is to be read as an image, by its suffix or else its first bytes. A broken one counts too."""
    suffix = path.suffix.lower()
    if suffix in TEXT or suffix in RAW or not path.is_file():  # reading a pipe would wait forever
        return False
    if suffix in SUFFIXES:
        return True
    try:
        with Image.open(path, formats=contents.MARKED):
            return True
    except Exception:  # decoders raise errors of any type on bad bytes
        return False


class Header(NamedTuple):
    """The facts in a file about its image, known before it is decoded."""

    stored: Size  # (height, width)
    orientation: int  # EXIF's, from 1 to 8

    @property
    def upright(self) -> Size:
        height, width = self.stored
        return (width, height) if self.orientation > 4 else (height, width)


def read_image(path: pathlib.Path, largest: int = LARGEST) -> bytes:
    """Return the bytes of an image file of at most `largest` pixels. Raise UserError as `files.read_bytes` does."""
    return read_bytes(path, largest * BYTES_PER_PIXEL + IMAGE_METADATA)


def decode_image(
    data: bytes, name: str, *, upright: bool = True, white: int = WHITE, largest: int | None = None
) -> np.ndarray:
    """Return an encoded image as RGB pixels [H,W,3] uint8. Grey is repeated, and transparency is dropped.

    Raise UserError with `name` if the bytes cannot be decoded, are not one still grey or colour image, or have more than
    `largest` pixels.
    """
    return to_uint8(decode_samples(data, name, upright=upright, largest=largest), white)


def decode_samples(data: bytes, name: str, *, upright: bool = True, largest: int | None = None) -> np.ndarray:
    """Decode like `decode_image`, at the depth of the file, [H,W,3] uint8 or uint16."""
    image = _load(data, name, largest)
    header = _find_header(image, data)
    if image.mode.startswith("I"):
        samples = _to_16_bits(np.asarray(image), name)
    elif image.mode == "F":
        raise UserError(f"{name}: pixels are floating point numbers; store the image with 8 or 16 bits per channel")
    elif contents.has_deep_colours(image, data):  # Pillow would drop their lower 8 bits
        samples = _decode_deep_colours(image, data, name)
    else:
        samples = _convert(image, name)
    if samples.ndim == 2:
        samples = np.repeat(samples[..., None], 3, axis=2)
    return _place(samples, header, image.format, upright)


def to_uint8(samples: np.ndarray, white: int) -> np.ndarray:
    """Return 16-bit samples as 8 bits, with `white` as 255. 8-bit samples stay."""
    if samples.dtype == np.uint8:
        return samples
    levels = np.minimum(np.arange(WHITE + 1, dtype=np.int64) * 255 // white, 255).astype(np.uint8)
    return levels[samples]


def choose_white(peak: int) -> int:
    """Return the smallest of LEVELS that covers `peak`, the largest 16-bit value, or the largest level if `peak` is 0."""
    return next(level for level in LEVELS if level >= peak) if peak else WHITE


def decode_mask(data: bytes, name: str, *, upright: bool = True, largest: int | None = None) -> np.ndarray:
    """Return the values of a mask, [H,W] integers (palette index or grey, 8 or 16 bits) or [H,W,3] uint8 colours.

    Raise UserError with `name` if the bytes cannot be decoded.
    """
    image = _load(data, name, largest)
    header = _find_header(image, data)
    match image.mode:
        case "1":
            values = np.asarray(image).astype(np.uint8)
        case "LA":
            values = np.asarray(image)[..., 0]
        case "P" | "L":
            values = np.asarray(image)
        case "F":
            raise UserError(f"{name}: values are floating point numbers; store whole numbers of 8 or 16 bits")
        case mode if mode.startswith("I"):
            values = np.asarray(image).astype(np.int32)
        case _:
            values = _convert(image, name)
    return _place(values, header, image.format, upright)


def decode_colours(data: bytes, name: str, *, upright: bool = True, largest: int | None = None) -> np.ndarray:
    """Return the colours [H,W,3] uint8 of a mask of any kind. Palettes are looked up and grey is repeated."""
    image = _load(data, name, largest)
    return _place(_convert(image, name), _find_header(image, data), image.format, upright)


def decode_grey(data: bytes, name: str, *, upright: bool = True) -> np.ndarray:
    """Return a mask's grey values [H,W] as viewers show it. One bit is 0 or 255. Colours and palettes are averaged."""
    with _open(data, name) as image:
        is_grey = image.mode[0] in "IF"
    if is_grey:
        return decode_mask(data, name, upright=upright)
    return decode_colours(data, name, upright=upright).sum(-1, dtype=np.int32) // 3


def read_palette(data: bytes, name: str) -> list[tuple[int, int, int]]:
    """Return the colours of a mask's palette by index, or none where it has no palette."""
    with _open(data, name) as image:
        listed = image.getpalette("RGB") or [] if image.mode == "P" else []
    return list(zip(*(listed[band::3] for band in range(3)), strict=True))


def read_header(data: bytes, name: str) -> Header:
    """Return the size and orientation of an encoded image. A PNG of up to LARGEST pixels is decoded for it."""
    with _open(data, name) as image:
        return _find_header(image, data, LARGEST)


def read_size(data: bytes, name: str, *, upright: bool = True) -> Size:
    """Return (height, width) of an encoded image, from its header alone."""
    header = read_header(data, name)
    return header.upright if upright else header.stored


def check_size(size: Size, name: str, largest: int) -> None:
    """Raise UserError for an image of more than `largest` pixels, which is config.data.max_pixels."""
    count = size[0] * size[1]
    if count > largest:
        raise UserError(
            f"{name} has {count:,} pixels, more than config.data.max_pixels={largest}; raise it if there is enough memory, "
            "or cut the image into parts"
        )


def refuse_unreadable(where: str, unreadable: list[str]) -> None:
    """Raise UserError that names the files that cannot be decoded. Do nothing where there are none."""
    remedy = "; repair them, or leave them out with config.data.folder.drop_unreadable=True"
    refuse(f"{where}: files that cannot be decoded", unreadable, remedy)


def encode_png(array: np.ndarray) -> bytes:
    """Return PNG bytes of [H,W] uint8 or uint16, or [H,W,3] uint8. Only the bytes depend on the zlib version."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=contents.FORMATS)
    except Exception as error:  # decoders raise errors of any type on bad bytes
        raise UserError(f"{name}: cannot be decoded as an image ({_reason(error, data)})") from error


def _load(data: bytes, name: str, largest: int | None) -> Image.Image:
    image = _open(data, name)
    if largest:
        check_size((image.height, image.width), name, largest)
    try:
        contents.check(image, data, name)
        image.load()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: cannot be decoded as an image ({_reason(error, data)})") from error
    return image


def _reason(error: Exception, data: bytes) -> str:
    if "BytesIO" not in str(error):
        return f"{type(error).__name__}: {error}"
    return contents.describe(data) or "not an image format that Pillow supports"


def _find_header(image: Image.Image, data: bytes, largest: int = 0) -> Header:
    orientation = contents.find_orientation(image, data, largest)
    turned = image.format == "TIFF" and orientation > 4  # Pillow turns TIFFs itself
    return Header((image.width, image.height) if turned else (image.height, image.width), orientation)


def _place(pixels: np.ndarray, header: Header, kind: str | None, upright: bool) -> np.ndarray:
    """Turn the pixels of a file of that kind to the requested view."""
    is_upright = kind == "TIFF"
    if header.orientation == 1 or is_upright == upright:
        return pixels
    turn = header.orientation if upright else BACK.get(header.orientation, header.orientation)
    return np.ascontiguousarray(TURNS[turn](pixels))


def _convert(image: Image.Image, name: str) -> np.ndarray:
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # convert always copies
    except ValueError as error:
        raise UserError(f"{name}: colours of mode {image.mode} cannot be converted; store the image as RGB") from error


def _to_16_bits(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > WHITE:
        raise UserError(
            f"{name}: grey values from {values.min()} to {values.max()} do not fit in 16 bits; store the image with 8 or 16 "
            "bits per channel"
        )
    return values.astype(np.uint16)


def _decode_deep_colours(image: Image.Image, data: bytes, name: str) -> np.ndarray:
    """Return RGB [H,W,3] uint16 of a file with 9 to 16 bits per channel, turned as Pillow does, without a fourth channel."""
    brightest = contents.find_brightest(image, data)
    ended = data + b"\n" if image.format == "PPM" else data  # OpenCV reads past the last number
    pixels = cv2.imdecode(np.frombuffer(ended, np.uint8), cv2.IMREAD_UNCHANGED)
    refusal = UserError(f"{name}: its 16 bits per channel cannot be decoded; store it as PNG with 8 or 16 bits")
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] < 3:
        raise refusal
    pixels = pixels[..., 2::-1]
    if not brightest:
        return pixels
    if brightest < WHITE:  # as Pillow does with grey of these formats
        pixels = (np.minimum(pixels, brightest).astype(np.uint32) * WHITE // brightest).astype(np.uint16)
    # JPEG 2000 has colour spaces and signed samples that Pillow supports and OpenCV does not.
    coarse = _convert(image, name)
    if pixels.shape != coarse.shape or np.abs(np.right_shift(pixels, 8).astype(np.int16) - coarse).max() > 1:
        raise refusal
    return pixels
