"""A zip file with the pictures of an evaluation, one for each example, which shows several runs side by side.

`names.json` holds the names of the classes, and for each example its index in the split, its image's name and its tiles:
INDEX-truth.webp, INDEX-prediction.webp and, for label maps, INDEX-image.webp.
"""

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from errors import UserError
from files import REMEDY, parse_json, read_bytes, write_atomically
from limits import EXAMPLES, MB

LONGER_SIDE = 320  # pixels of a tile
QUALITY = 80
METHOD = 2  # effort, 0 to 6: half the time of the default, 4 % more bytes
NAMES = "names.json"


@dataclasses.dataclass(frozen=True)
class DrawnExample:
    """One example with its place in the split, its image's name, and its tiles by name, as WebP."""

    index: int
    name: str
    tiles: dict[str, bytes]


class DrawnExamples(NamedTuple):
    """The examples of a split that are drawn, by rising index."""

    class_names: Sequence[str]
    examples: Sequence[DrawnExample]


def write_examples(path: Path, drawn: DrawnExamples) -> None:
    """Write the examples, all or none. The same examples give the same bytes."""
    names = [
        {"index": own.index, "name": own.name, "tiles": {name: f"{own.index}-{name}.webp" for name in own.tiles}}
        for own in drawn.examples
    ]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # not compressed: WebP is already
        archive.writestr(zipfile.ZipInfo(NAMES), json.dumps({"classes": list(drawn.class_names), "examples": names}))
        for own, entry in zip(drawn.examples, names, strict=True):
            for name, tile in own.tiles.items():
                archive.writestr(zipfile.ZipInfo(entry["tiles"][name]), tile)
    write_atomically(path, content.getvalue())


def read_examples(path: Path) -> DrawnExamples:
    """Read a file of `write_examples`. Raise FileNotFoundError, or UserError for a damaged file."""
    content = read_bytes(path, EXAMPLES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (
                sum(own.file_size for own in archive.infolist()) > EXAMPLES
            ):  # a few bytes of a zip file can hold gigabytes
                raise UserError(f"{path} holds more than {EXAMPLES / MB:g} MB; {REMEDY}")
            names = parse_json(archive.read(NAMES), f"{path}, {NAMES}")
            examples = [
                DrawnExample(
                    own["index"], own["name"], {name: archive.read(file) for name, file in own["tiles"].items()}
                )
                for own in names["examples"]
            ]
        drawn = DrawnExamples(names["classes"], examples)
    except UserError:
        raise
    # zipfile raises many types of errors for a damaged file.
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise UserError(f"{path} is damaged ({error!r}); {REMEDY}") from None
    texts = [*drawn.class_names, *(own.name for own in examples)] if isinstance(drawn.class_names, list) else [None]
    if not all(isinstance(text, str) for text in texts) or not all(type(own.index) is int for own in examples):
        raise UserError(f"{path} does not hold the examples of an evaluation; {REMEDY}")
    return drawn


def encode_webp(picture: np.ndarray) -> bytes:
    """Encode [H,W,3] uint8 as WebP."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="WEBP", quality=QUALITY, method=METHOD)
    return encoded.getvalue()
