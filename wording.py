"""Counts and names in messages, and safe forms of foreign text for terminals, tables and file names.

Names of classes, images and runs come from data. There is one function for each place that shows them. Every part may import
this file, which imports none of our modules.
"""

import hashlib
import re
from collections.abc import Sequence

JOINERS = ("\u200c", "\u200d")  # join letters, for example in Persian, and emoji
LONGEST = 180  # bytes of a name: file systems have room for 255
SIBILANTS = ("s", "x", "ch", "sh")  # a noun with such an ending takes "es"


def count(number: int, noun: str) -> str:
    """Return the number with its noun, such as "1 class", "2 classes" or "0 files"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith(SIBILANTS) else 's'}"


def count_being(number: int, noun: str) -> str:
    """Return the beginning of a sentence, such as "1 file is" or "2 files are"."""
    return f"{count(number, noun)} {'is' if number == 1 else 'are'}"


def name_some(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first `most` names and the number of others, such as "a, b, c (and 4 more)"."""
    others = len(names) - most
    return separator.join(names[:most]) + (f" (and {others} more)" if others > 0 else "")


def make_printable(text: str) -> str:
    """Return a text for a terminal, with ? for characters that would break the line or control the terminal."""
    return "".join(letter if letter.isprintable() or letter in JOINERS else "?" for letter in text)


def is_harmless(text: str) -> bool:
    """Return whether `make_printable` would leave a text unchanged, apart from spaces of any width."""
    return make_printable(" ".join(text.split(" "))) == text


def make_cell(text: str) -> str:
    """Return a printable text for a CSV cell that no spreadsheet takes for a formula. Numbers stay unchanged."""
    text = make_printable(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and text != "-" and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_file_name(name: str) -> str:
    """Return a printable file name, short enough for a suffix. If it differs from `name`, it ends with a hash."""
    fitting = make_printable(name).encode(errors="replace")[:LONGEST].decode(errors="ignore")
    if fitting == name:
        return name
    return f"{fitting}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def escape_markdown(text: str) -> str:
    """Return a text with the special characters of Markdown and HTML escaped."""
    plain = make_printable(re.sub(r"\s+", " ", text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#|~!])", r"\\\1", plain)
