"""How messages write counts and names. Every part may import this file; it imports nothing of ours."""

from collections.abc import Sequence

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
    """Returns a text without what would break a line or steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
