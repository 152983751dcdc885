"""Which view of a stored image its annotations mean: the upright one, as EXIF says and viewers show it, or the stored one.

Most tools annotate what they show. Some read the pixels as they are stored: where the size that an annotation names fits those
alone, the stored view is taken. A half turn or a mirror image leaves the size alike, and so does a square: upright.
"""

from collections.abc import Sequence

from errors import UserError
from input_pipeline.batch import Size
from input_pipeline.decoding import Header
from input_pipeline.remarks import name_files


def is_upright(header: Header, said: Size | None, name: str) -> bool:
    """Whether the annotation of the image `name` is of its upright view. `said` is the size that it names, if any.

    Raises UserError where neither view has that size.
    """
    if said is None or tuple(said) == header.upright:
        return True
    if tuple(said) == header.stored:
        return False
    raise UserError(f"{name} is {describe(header)}, its annotation says {said[0]:g}x{said[1]:g}; correct one of them")


def is_mask_upright(header: Header, size: Size, name: str, mask: str) -> bool:
    """Like `is_upright`, for a mask of `size` in the file `mask`."""
    try:
        return is_upright(header, size, name)
    except UserError:
        by = f"{size[0]}x{size[1]} (height x width)"
        raise UserError(f"{mask} is {by}, its image {describe(header)}; both must have the same pixels") from None


def describe(header: Header) -> str:
    """The size of an image, and of both its views where they differ, for an error."""
    height, width = header.upright
    if header.stored == header.upright:
        return f"{height}x{width} (height x width)"
    stored = "x".join(map(str, header.stored))
    return f"{height}x{width} (height x width) by its EXIF orientation {header.orientation}, and stored as {stored}"


def note_views(turned: Sequence[str], stored: Sequence[str]) -> list[str]:
    """Remarks on the images that carry an EXIF orientation: those that are read upright, and those read as stored."""
    lines = name_files("read upright, as the EXIF orientation says", turned)
    return lines + name_files("read as stored, for the annotated size is the one without the EXIF orientation", stored)
