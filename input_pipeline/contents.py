"""The content of an image file beyond one picture's pixels, such as pages, frames, bands, depth and orientation.

One grey or colour picture is read. Any other file is refused in one line that names its content and the remedy.
"""

import contextlib
import ctypes
import io
import logging
import pathlib
import re
import struct
import warnings
from typing import Any

import PIL
from PIL import Image, TiffImagePlugin

from errors import UserError
from limits import MB, PAGES

with contextlib.suppress(ImportError):  # optional: it reads HEIC, the photos of iPhones
    import pillow_heif  # pyright: ignore[reportMissingImports]: it is seldom installed

    pillow_heif.register_heif_opener()

Image.init()
# Messages that decoders print about a damaged file are in our errors too.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="PIL")
for library in pathlib.Path(PIL.__path__[0]).parent.glob("pillow.libs/libtiff*"):  # it writes to stderr by itself
    ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
    ctypes.CDLL(str(library)).TIFFSetWarningHandler(None)
# Not still images, or stubs that cannot be read here.
NOT_STILL = ("BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
FORMATS = tuple(kind for kind in Image.ID if kind not in NOT_STILL)
# Formats with unmistakable first bytes, which show that a file with another suffix is an image.
MARKED = tuple(
    kind
    for kind in FORMATS
    if kind in ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "QOI", "TIFF", "WEBP")
)
COUNTED = 16 * MB  # the largest GIF whose frames are counted
ONE_PICTURE = ("MPO", "PSD")  # further pages belong to the first: a gain map, the other eye, layers
HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands of ISO/IEC 23008-12
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
ENABLE_HEIF = "run `pip install pillow-heif` to read HEIC, or convert the files to JPEG"

# Tags of TIFF 6.0 and its supplements.
SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, BANDS = 254, 256, 257, 258, 262, 274, 277
PLANAR, EXTRA, SAMPLE_FORMAT = 284, 338, 339
PREVIEW, MASK = 1, 4  # bits of SUBFILE for a page that is not a picture of its own
OWN_BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # for each PHOTOMETRIC
ALPHA = (1, 2)  # values of EXTRA
APART = 2  # value of PLANAR: one band after the other
FLOAT = 3  # value of SAMPLE_FORMAT
WHITE_IS_ZERO = 0  # value of PHOTOMETRIC
# Matches the largest value of a colour PPM. Comments may stand between the numbers.
PPM_HEADER = re.compile(rb"P[36](?:(?:\s|#[^\r\n]*[\r\n])+(\d+)){3}")
SIZ = b"\xff\x4f\xff\x51"  # the first bytes of a JPEG 2000 code stream (ISO/IEC 15444-1, A.5.1)
# Offsets in it: two bytes with the number of components, and one byte with the bits of the first component less 1.
COMPONENTS, PRECISION = 40, 42


def check(image: Image.Image, data: bytes, name: str) -> None:
    """Raise UserError for several pages or frames, and for bands other than grey, colour and transparency."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, name)
    if image.format == "SGI" and data[3] == 2:  # bytes per sample; Pillow drops one
        raise UserError(f"{name} is an SGI file of 16 bits, which is not supported; store it as PNG or TIFF")
    # Counting the frames moves to another frame, so it is done on a second copy.
    if image.format not in ONE_PICTURE and getattr(image, "is_animated", False):
        with Image.open(io.BytesIO(data), formats=FORMATS) as again:
            pages = _count_pages(again, len(data))
        if pages > 1:
            what = "pages" if image.format == "TIFF" else "frames"
            number = str(pages) if pages <= PAGES else "many"
            raise UserError(f"{name} holds {number} {what}; store each as a file of its own, or only the one you need")


def _check_tiff(image: TiffImagePlugin.TiffImageFile, name: str) -> None:
    tags = image.tag_v2
    if _first(tags.get(SUBFILE, 0)) & PREVIEW:
        raise UserError(
            f"{name}: the first page is a preview, as in camera raw files; develop it and store it as TIFF or JPEG"
        )
    photometric, bands = _first(tags.get(PHOTOMETRIC, 1)), _first(tags.get(BANDS, 1))
    own, extra = OWN_BANDS.get(photometric, 1), _first(tags.get(EXTRA, 0))
    if bands > own and not (bands == own + 1 and extra in ALPHA):
        raise UserError(
            f"{name} has {bands} bands, and those after the first {own} are not transparency; store the {own} to read in a "
            "separate image"
        )
    if _first(tags.get(BITS, 1)) > 8 and photometric == WHITE_IS_ZERO:
        raise UserError(f"{name}: grey of more than 8 bits with 0 as white is not supported; store it with 0 as black")
    if _first(tags.get(BITS, 1)) > 8 and bands > 1 and tags.get(PLANAR) == APART:
        raise UserError(
            f"{name}: separate planes of more than 8 bits are not supported; store the bands interleaved (tifffile: "
            "planarconfig='contig'), or with 8 bits"
        )


def _count_pages(image: Image.Image, size: int) -> int:
    """Return the number of full pictures in a file of `size` bytes, or more than PAGES where counting takes too long."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):  # counting the frames of a GIF reads the whole file
        return getattr(image, "n_frames", 1) if image.format != "GIF" or size < COUNTED else PAGES + 1
    count = 0
    for page in range(PAGES + 2):
        try:
            image.seek(page)
        except EOFError:
            return count
        count += not _first(image.tag_v2.get(SUBFILE, 0)) & (PREVIEW | MASK)
    return PAGES + 1


def has_deep_colours(image: Image.Image, data: bytes) -> bool:
    """Return whether the file has colours, or grey with transparency, of 16 bits per channel."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)  # header bytes: bits, and colour type
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(BITS, ())
        return isinstance(bits, tuple) and len(bits) >= 3 and min(bits) > 8
    return find_brightest(image, data) > 255


def find_brightest(image: Image.Image, data: bytes) -> int:
    """Return the largest value that the header of a colour PPM or JPEG 2000 allows, 0 for other files."""
    if image.format == "PPM" and (header := PPM_HEADER.match(data)):
        return int(header[1])
    start = data.find(SIZ) if image.format == "JPEG2000" else -1
    if start >= 0 and int.from_bytes(data[start + COMPONENTS : start + PRECISION]) > 1:
        return 2 ** ((data[start + PRECISION] & 0x7F) + 1) - 1  # the highest bit is the flag of signed values
    return 0


def find_orientation(image: Image.Image, data: bytes, largest: int = 0) -> int:
    """Return the EXIF orientation, 1 where it is missing or invalid. Call it before or after the image is loaded.

    An image of more than `largest` pixels is not decoded for it. Pass 0 for an image that is already loaded.
    """
    if image.format == "PNG" and not (b"eXIf" in data or b"Raw profile type" in data or b"tiff:Orientation" in data):
        return 1  # Pillow would decode the whole image to read metadata after the pixels
    if image.format == "PNG" and largest and image.width * image.height > largest:
        return 1
    try:
        if image.format == "TIFF":
            found = TiffImagePlugin.TiffImageFile(io.BytesIO(data)).tag_v2.get(ORIENTATION, 1)
        else:
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # unreadable metadata counts as missing
        return 1
    found = _first(found)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def describe(data: bytes) -> str:
    """Return the content of a file that Pillow does not open, with the remedy, or "" where it is unknown."""
    if data[4:8] == b"ftyp":
        if data[8:12] in HEIF:
            return f"HEIC; {ENABLE_HEIF}"
        return "a video, or another file of the MP4 family; extract single images"
    if data[128:132] == b"DICM":
        return "DICOM; export its pixels as 16-bit PNG"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _describe_tiff(data)
    return ""


def _describe_tiff(data: bytes) -> str:
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if data[2] == 43 or data[3] == 43 else data[:8])
        stream = io.BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        bands, bits = int(_first(tags.get(BANDS, 1))), int(_first(tags.get(BITS, 1)))
        kind = "floating point numbers" if _first(tags.get(SAMPLE_FORMAT, 1)) == FLOAT else "bits"
    except (SyntaxError, struct.error, KeyError, TypeError, ValueError):
        return ""
    what = f"{bits}-bit {kind}" if kind != "bits" else f"{bits} bits"
    return f"a TIFF of {bands} band{'s' if bands > 1 else ''} of {what}; store 1 or 3 bands of 8 or 16 bits"


def _first(value: Any) -> Any:
    """Return a tag's first value. Some writers give one for each band."""
    return value[0] if isinstance(value, tuple) and value else value
