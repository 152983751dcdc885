"""How messages write counts and names, and how text that anybody may have written goes to a terminal, a table or a file's name.

Names of classes, images and runs come from data. Each place that they go to has one function here. Every part may import
this file; it imports nothing of ours.
"""

import hashlib
import re
from collections.abc import Sequence

JOINERS = ("\u200c", "\u200d")  # of letters, in Persian for example, and of emoji
LONGEST = 180  # bytes of a name: file systems have room for 255
SIBILANTS = ("s", "x", "ch", "sh")  # a noun with such an end takes "es"


def count(number: int, noun: str) -> str:
    """Returns the number with its noun: "1 class", "2 classes", "0 files"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith(SIBILANTS) else 's'}"


def count_being(number: int, noun: str) -> str:
    """Returns the beginning of a sentence: "1 file is", "2 files are"."""
    return f"{count(number, noun)} {'is' if number == 1 else 'are'}"


def name_some(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Returns the first `most` names; the others are counted: "a, b, c (and 4 more)"."""
    others = len(names) - most
    return separator.join(names[:most]) + (f" (and {others} more)" if others > 0 else "")


def make_printable(text: str) -> str:
    """Returns a text for a terminal: without what would break a line or steer it."""
    return "".join(letter if letter.isprintable() or letter in JOINERS else "?" for letter in text)


def is_harmless(text: str) -> bool:
    """Whether a text may be a name: it holds nothing that `make_printable` replaces, spaces of any width excepted."""
    return make_printable(" ".join(text.split(" "))) == text


def make_cell(text: str) -> str:
    """Returns a text for a cell of CSV: printable, and no formula to a spreadsheet. Numbers stay as they are."""
    text = make_printable(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and text != "-" and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_file_name(name: str) -> str:
    """Returns a name for a file: printable, and short enough for a suffix. One that is changed ends with its hash."""
    fitting = make_printable(name).encode(errors="replace")[:LONGEST].decode(errors="ignore")
    if fitting == name:
        return name
    return f"{fitting}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def escape_markdown(text: str) -> str:
    """Returns text in which Markdown and HTML find nothing to mark up."""
    plain = make_printable(re.sub(r"\s+", " ", text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#|~!])", r"\\\1", plain)
