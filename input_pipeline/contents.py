"""What an image file holds beyond the pixels of one picture: pages, frames, bands, depth, orientation.

One picture of grey or colour is read; for the rest there is one line that says what the file holds and what to do.
"""

import contextlib
import ctypes
import io
import itertools
import logging
import pathlib
import re
import struct
import warnings

import PIL
from PIL import Image, TiffImagePlugin

from errors import UserError
from limits import MB, PAGES

with contextlib.suppress(ImportError):  # not required: where it is installed, photos of iPhones (HEIC) are read
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.init()
# What decoders print of a damaged file is in our errors too.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="PIL")
for library in pathlib.Path(PIL.__path__[0]).parent.glob("pillow.libs/libtiff*"):  # it writes to stderr by itself
    ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
    ctypes.CDLL(str(library)).TIFFSetWarningHandler(None)
# Not still images, or stubs that cannot be read here.
NOT_STILL = ("BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
FORMATS = tuple(kind for kind in Image.ID if kind not in NOT_STILL)
# Kinds with an unmistakable beginning, by which a file with another suffix is found to be an image.
MARKED = tuple(
    kind
    for kind in FORMATS
    if kind in ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "QOI", "TIFF", "WEBP")
)
COUNTED = 16 * MB  # a file of which the frames are counted
ONE_PICTURE = ("MPO", "PSD")  # what follows the first page belongs to it: a gain map, the other eye, layers
HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands of ISO/IEC 23008-12
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
ENABLE_HEIF = "`pip install pillow-heif` makes HEIC readable, or convert the files to JPEG"

# Tags of TIFF 6.0 and its supplements.
SUBFILE, WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, BANDS = 254, 256, 257, 258, 262, 274, 277
PLANAR, EXTRA, SAMPLE_FORMAT = 284, 338, 339
PREVIEW, MASK = 1, 4  # bits of SUBFILE: a page that is not a picture of its own
OWN_BANDS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # of each PHOTOMETRIC
ALPHA = (1, 2)  # of EXTRA
APART = 2  # of PLANAR: one band after the other
FLOAT = 3  # of SAMPLE_FORMAT
WHITE_IS_ZERO = 0  # of PHOTOMETRIC
# Of a colour PPM, the largest value; comments may stand between the numbers.
PPM_HEADER = re.compile(rb"P[36](?:(?:\s|#[^\r\n]*[\r\n])+(\d+)){3}")
SIZ = b"\xff\x4f\xff\x51"  # begins the code stream of JPEG 2000 (ISO/IEC 15444-1, A.5.1); its components stand at:
COMPONENTS, PRECISION = 40, 42  # two bytes, and one with the bits of the first component less 1


def check(image: Image.Image, data: bytes, name: str) -> None:
    """Raises UserError for several pages or frames, and for bands that are neither grey, colour nor transparency."""
    if image.format == "TIFF":
        _check_tiff(image, name)
    if image.format == "SGI" and data[3] == 2:  # bytes per sample, of which Pillow drops one
        raise UserError(f"{name}: an SGI file of 16 bits; store it as PNG or TIFF")
    # To count the frames moves to others: not in the image that is to be loaded.
    if image.format not in ONE_PICTURE and getattr(image, "is_animated", False):
        with Image.open(io.BytesIO(data), formats=[image.format]) as again:
            pages = _count_pages(again, len(data))
        if pages > 1:
            what = "pages" if image.format == "TIFF" else "frames"
            number = str(pages) if pages <= PAGES else "many"
            raise UserError(f"{name} holds {number} {what}; store each as a file of its own, or the one that is meant")


def _check_tiff(image: Image.Image, name: str) -> None:
    tags = image.tag_v2
    if _first(tags.get(SUBFILE, 0)) & PREVIEW:
        raise UserError(
            f"{name}: its first page is a preview, as in camera raw files; develop it to a TIFF or JPEG of its own"
        )
    photometric, bands = _first(tags.get(PHOTOMETRIC, 1)), _first(tags.get(BANDS, 1))
    own, extra = OWN_BANDS.get(photometric, 1), _first(tags.get(EXTRA, 0))
    if bands > own and not (bands == own + 1 and extra in ALPHA):
        raise UserError(
            f"{name} holds {bands} bands, and what is beyond {own} is not transparency; store the {own} to be read as an "
            "image of their own"
        )
    if _first(tags.get(BITS, 1)) > 8 and photometric == WHITE_IS_ZERO:
        raise UserError(f"{name}: grey of more than 8 bits in which 0 is white; store it with 0 as black")
    if _first(tags.get(BITS, 1)) > 8 and bands > 1 and tags.get(PLANAR) == APART:
        raise UserError(
            f"{name}: bands of more than 8 bits that are stored one after the other; store them interleaved (tifffile: "
            "planarconfig='contig'), or with 8 bits"
        )


def _count_pages(image: Image.Image, size: int) -> int:
    """The pages that are pictures of their own, of a file of `size` bytes; more than PAGES where there are too many to count."""
    if image.format != "TIFF":  # to count the frames of a GIF is to go through the file
        return image.n_frames if image.format != "GIF" or size < COUNTED else PAGES + 1
    count = 0
    for page in itertools.count():
        try:
            image.seek(page)
        except EOFError:
            return count
        count += not _first(image.tag_v2.get(SUBFILE, 0)) & (PREVIEW | MASK)
        if page > PAGES:
            return PAGES + 1


def has_deep_colours(image: Image.Image, data: bytes) -> bool:
    """Whether the file has colours, or grey with transparency, of 16 bits per channel."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)  # of its header: bits, and the type of colours
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS, ())
        return isinstance(bits, tuple) and len(bits) >= 3 and min(bits) > 8
    return find_brightest(image, data) > 255


def find_brightest(image: Image.Image, data: bytes) -> int:
    """The largest value that the header of a PPM or a JPEG 2000 of colours allows, 0 for all else."""
    if image.format == "PPM" and (header := PPM_HEADER.match(data)):
        return int(header[1])
    start = data.find(SIZ) if image.format == "JPEG2000" else -1
    if start >= 0 and int.from_bytes(data[start + COMPONENTS : start + PRECISION]) > 1:
        return 2 ** ((data[start + PRECISION] & 0x7F) + 1) - 1  # the bit above says whether there are negative values
    return 0


def find_orientation(image: Image.Image, data: bytes, largest: int = 0) -> int:
    """EXIF's orientation, 1 where there is none or it is not valid. Call it before the image is loaded, or after.

    An image of more than `largest` pixels is not decoded for it; 0 is for one that is loaded already.
    """
    if image.format == "PNG" and not (b"eXIf" in data or b"Raw profile type" in data or b"tiff:Orientation" in data):
        return 1  # Pillow would decode all of it to look behind the pixels
    if image.format == "PNG" and largest and image.width * image.height > largest:
        return 1
    try:
        if image.format == "TIFF":
            found = TiffImagePlugin.TiffImageFile(io.BytesIO(data)).tag_v2.get(ORIENTATION, 1)
        else:
            found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # metadata that cannot be parsed says nothing
        return 1
    found = _first(found)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def describe(data: bytes) -> str:
    """What the bytes of a file that Pillow does not open hold, and the remedy; "" where nothing is known of them."""
    if data[4:8] == b"ftyp":
        if data[8:12] in HEIF:
            return f"HEIC; {ENABLE_HEIF}"
        return "a video, or another container of the MP4 family; give single images"
    if data[128:132] == b"DICM":
        return "DICOM; export its pixels as PNG of 16 bits"
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


def _first(value):
    """A tag's value: some writers give one for each band."""
    return value[0] if isinstance(value, tuple) and value else value
