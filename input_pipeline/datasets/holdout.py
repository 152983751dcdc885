"""Two splits made of one. `val` gets the share config.data.holdout of the examples, and `train` gets the others.

The side of an example depends only on its name and config.data.holdout_seed: it stays the same when others are added or removed.
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
    """Return the hash of an example's name that decides its side, 16 letters."""
    return hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="surrogatepass")).hexdigest()[:16]


def find_split(wanted: str, known: Sequence[str], data: ConfigDict, where: str) -> str:
    """Return the dataset's split to read for `wanted`, one of `known`. Raise UserError where there is none.

    It is the split of that name; or the only split with another form of the name, such as train2017 for train or valid for val;
    or the only split at all, where config.data.holdout makes two of it.
    """
    if data.holdout and len(known) > 1:
        raise UserError(
            f"config.data.holdout={data.holdout:g} divides a single split, but {where} has {', '.join(known)}; set it to 0"
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
    """Return the field of config.data that names the split `wanted`, for an error. Return both where it is unclear."""
    named = [
        field
        for field in ("train_split", "eval_split")
        if wanted in (part.split("[")[0].split(":")[-1] for part in data[field].split("+"))
    ]
    return f"config.data.{named[0]}" if len(named) == 1 else "config.data.train_split or eval_split"


def name_plainly(name: str) -> str:
    """Return the name of a split without a year, and "val" for every name of the validation split."""
    plain = re.sub(r"[-_]?\d{4}$", "", name)
    return SPLITS[1] if plain in SAME else plain


def select_side(marks: Collection[str], wanted: str, data: ConfigDict) -> list[int]:
    """Return the places of the examples of `wanted`, one of SPLITS, from the `marks` of all examples. Raise UserError."""
    held = [_draw(own, data.holdout_seed) < data.holdout for own in marks]
    places = [place for place, out in enumerate(held) if out == (wanted != "train")]
    if not places:
        raise UserError(
            f"config.data.holdout={data.holdout:g} leaves {wanted} without any of the {len(held)} examples; choose another "
            "share, or another config.data.holdout_seed"
        )
    return places


def _draw(own: str, seed: int) -> float:
    """Draw a number of [0, 1)."""
    return int(hashlib.sha256(f"{seed} {own}".encode()).hexdigest()[:16], 16) / LARGEST
