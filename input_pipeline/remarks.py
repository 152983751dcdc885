"""Remarks: what a reader passed over, or read in another way than the file alone says. One line a kind, with count and names.

A source has them as `remarks`; a run and --mode=datacheck print them once.
"""

import hashlib
import pathlib
from collections.abc import Iterable, Sequence

from input_pipeline.batch import SHOWN
from input_pipeline.contents import ENABLE_HEIF, HEIC_SUFFIXES
from input_pipeline.decoding import WHITE
from wording import count_being, name_some


def name_files(what: str, names: Sequence[str]) -> list[str]:
    """ "3 files are WHAT: a.png, b.png, c.png": one line, or none where there are no names."""
    if not names:
        return []
    return [f"{count_being(len(names), 'file')} {what}: {name_some(names, SHOWN)}"]


def name_others(paths: Iterable[pathlib.Path]) -> list[str]:
    """Remarks on files that lie among images and are none: HEIC, which can be enabled, and all else."""
    paths = sorted(paths)
    heic = [path.name for path in paths if path.suffix.lower() in HEIC_SUFFIXES]
    others = [path.name for path in paths if path.suffix.lower() not in HEIC_SUFFIXES]
    lines = name_files("passed over, HEIC", heic)
    return [f"{line}; {ENABLE_HEIF}" for line in lines] + name_files(
        "passed over, not an image that is read here", others
    )


def note_white(peak: int, level: int) -> tuple[str, ...]:
    """A remark on images of 16 bits that reach the value `peak`, and are read with `level` as white."""
    if not peak:
        return ()
    beyond = "; what is brighter is white too" if peak > level else ""
    return (f"images of 16 bits reach {peak}; {level} is read as white (config.data.white_level){beyond}",)


def add_white(fingerprint: str, peak: int, level: int) -> str:
    """The fingerprint of images that are read with `level` as white, where some have 16 bits and reach `peak`."""
    return (
        fingerprint
        if not peak or level == WHITE
        else hashlib.sha256(f"{fingerprint} {level}".encode()).hexdigest()[:16]
    )
