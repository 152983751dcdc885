"""Two splits of one: config.data.holdout is the share of the examples that `val` gets, and `train` has the others.

Which side an example is on depends on its name and config.data.holdout_seed alone: it stays there when others come or go.
"""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Sequence

from ml_collections import ConfigDict

from errors import UserError

SPLITS = ("train", "val")
SAME = ("val", "valid", "validation")  # names that people give one split
LARGEST = 2**64


def mark(name: str) -> str:
    """Return what of an example's name decides its side, 16 letters."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="surrogatepass")).hexdigest()[:16]


def find_split(wanted: str, known: Sequence[str], data: ConfigDict, where: str) -> str:
    """Return the split of a dataset to read for `wanted`, whose splits are `known`. Raises UserError where there is none.

    It is that one; the only other name of it, such as train2017 for train, or valid for val; or the only split, where
    config.data.holdout makes two of it.
    """
    if data.holdout and len(known) > 1:
        raise UserError(
            f"config.data.holdout={data.holdout:g} makes two splits of one, but {where} has {', '.join(known)}; set it to 0"
        )
    if data.holdout and (wanted in SPLITS or wanted in SAME):
        return known[0]
    if wanted in known and not data.holdout:
        return wanted
    plain = SPLITS[1] if wanted in SAME else wanted
    same = [name for name in known if name_plainly(name) == plain]
    if len(same) == 1 and not data.holdout:
        return same[0]
    choice = SPLITS if data.holdout else known
    more = "" if data.holdout or len(known) > 1 else ", or set config.data.holdout=0.2 to hold out a fifth of it as val"
    raise UserError(
        f"{name_field(data, wanted)}: {where} has no split {wanted!r}; choose one of {', '.join(choice)}{more}"
    )


def name_field(data: ConfigDict, wanted: str) -> str:
    """Return the field of config.data that names the split `wanted`, for an error; both fields where that is open."""
    named = [
        field
        for field in ("train_split", "eval_split")
        if wanted in (part.split("[")[0].split(":")[-1] for part in data[field].split("+"))
    ]
    return f"config.data.{named[0]}" if len(named) == 1 else "config.data.train_split or eval_split"


def name_plainly(name: str) -> str:
    """Return the name of a split without a year, and one name for those that the validation split has."""
    plain = re.sub(r"[-_]?\d{4}$", "", name)
    return SPLITS[1] if plain in SAME else plain


def select_side(marks: Collection[str], wanted: str, data: ConfigDict) -> list[int]:
    """Return the places of the examples that `wanted` has, one of SPLITS; `marks` are those of all examples. Raises UserError."""
    held = [_draw(own, data.holdout_seed) < data.holdout for own in marks]
    places = [place for place, out in enumerate(held) if out == (wanted != "train")]
    if not places:
        raise UserError(
            f"config.data.holdout={data.holdout:g} leaves {wanted} none of {len(held)} examples; set another share, or another "
            "config.data.holdout_seed"
        )
    return places


def _draw(own: str, seed: int) -> float:
    """A number of [0, 1)."""
    return int(hashlib.sha256(f"{seed} {own}".encode()).hexdigest()[:16], 16) / LARGEST
