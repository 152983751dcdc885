"""The view of a stored image that its annotations describe, upright (as EXIF and viewers show it) or as stored.

Most tools annotate the view that they show. Some read the pixels as stored. The stored view is taken where only its size matches
the annotated size. A half turn, a mirror image and a square image do not change the size: these are read upright.
"""

from collections.abc import Sequence

from errors import UserError
from input_pipeline.batch import Size
from input_pipeline.decoding import Header
from input_pipeline.remarks import name_files


def is_upright(header: Header, said: tuple[float, float] | None, name: str) -> bool:
    """Return whether the annotation of the image `name` describes its upright view. `said` is the annotated size, if any.

    Raise UserError where neither view has that size.
    """
    if said is None or tuple(said) == header.upright:
        return True
    if tuple(said) == header.stored:
        return False
    raise UserError(
        f"{name} is {describe(header)}, but its annotation says {said[0]:g}x{said[1]:g}; correct one of them"
    )


def is_mask_upright(header: Header, size: Size, name: str, mask: str) -> bool:
    """Return whether a mask of `size` in the file `mask` describes the upright view of its image."""
    try:
        return is_upright(header, size, name)
    except UserError:
        by = f"{size[0]}x{size[1]} (height x width)"
        raise UserError(f"{mask} is {by}, but its image is {describe(header)}; make both the same size") from None


def describe(header: Header) -> str:
    """Return the size of an image for an error, with both views where they differ."""
    height, width = header.upright
    if header.stored == header.upright:
        return f"{height}x{width} (height x width)"
    stored = "x".join(map(str, header.stored))
    return f"{height}x{width} (height x width) with its EXIF orientation {header.orientation}, stored as {stored}"


def note_views(turned: Sequence[str], stored: Sequence[str]) -> list[str]:
    """Return remarks on images with an EXIF orientation, on those read upright and those read as stored."""
    lines = name_files("read upright, as the EXIF orientation says", turned)
    return lines + name_files("read as stored (the annotated size ignores the EXIF orientation)", stored)
