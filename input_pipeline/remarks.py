"""Remarks on files that a reader skipped, or interpreted differently than the file alone suggests.

Each kind of remark is one line with count and names. A source holds them as `remarks`; a run and --mode=datacheck print them
once.
"""

import hashlib
import pathlib
from collections.abc import Iterable, Sequence

from input_pipeline.batch import SHOWN
from input_pipeline.contents import ENABLE_HEIF, HEIC_SUFFIXES
from input_pipeline.decoding import WHITE
from wording import count_being, name_some


def name_files(what: str, names: Sequence[str]) -> list[str]:
    """Return `["3 files are WHAT: a.png, b.png, c.png"]`, or an empty list where there are no names."""
    if not names:
        return []
    return [f"{count_being(len(names), 'file')} {what}: {name_some(names, SHOWN)}"]


def name_others(paths: Iterable[pathlib.Path]) -> list[str]:
    """Return remarks on files among the images that are not read, HEIC (which can be enabled) and others."""
    paths = sorted(paths)
    heic = [path.name for path in paths if path.suffix.lower() in HEIC_SUFFIXES]
    others = [path.name for path in paths if path.suffix.lower() not in HEIC_SUFFIXES]
    lines = name_files("skipped (HEIC)", heic)
    return [f"{line}; {ENABLE_HEIF}" for line in lines] + name_files("skipped (not a supported image)", others)


def note_white(peak: int, level: int) -> tuple[str, ...]:
    """Return a remark on 16-bit images that reach the value `peak` and are read with `level` as white."""
    if not peak:
        return ()
    beyond = "; brighter values become white too" if peak > level else ""
    return (f"16-bit images reach {peak}; {level} is read as white (config.data.white_level){beyond}",)


def add_white(fingerprint: str, peak: int, level: int) -> str:
    """Return the fingerprint of images that are read with `level` as white, where 16-bit ones reach `peak`."""
    return (
        fingerprint
        if not peak or level == WHITE
        else hashlib.sha256(f"{fingerprint} {level}".encode()).hexdigest()[:16]
    )
