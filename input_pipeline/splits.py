"""Splits by their names: a part of one (`train[:100]`), and several as one (`train+validation`)."""

import bisect
import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

from errors import UserError


def parse_split(split: str) -> tuple[str, Callable[[int], range]]:
    """ "train[10:20]" or "train[:50%]" -> "train", and which of that many examples are meant. Raises UserError."""
    match = re.fullmatch(r"([\w-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match:
        raise UserError(f"config.data: {split!r} is no split; write train, train[:100] or train[10%:]")

    def select(count: int) -> range:
        bounds = (
            None if bound is None else round(count * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound)
            for bound in match.groups()[1:]
        )
        return range(count)[slice(*bounds)]

    return match[1], select


class Union:
    """The examples of `parts`, sources of the splits `names`, one after the other. It tells what all of them tell.

    Raises UserError where their classes differ.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Any]):
        for name, part in zip(names, parts, strict=True):
            if part.class_names != parts[0].class_names:
                raise UserError(
                    f"config.data: {names[0]} and {name} differ in their classes ({_differences(parts[0], part)}); "
                    "only splits with the same classes in the same order can be one"
                )
        self.parts = parts
        self.class_names, self.category_ids = parts[0].class_names, parts[0].category_ids
        self.fingerprint = hashlib.sha256("+".join(part.fingerprint for part in parts).encode()).hexdigest()[:16]
        # What preparation left out is told of whole splits: two slices of one tell it once.
        self._whole = {name.split("[")[0]: part for name, part in zip(names, parts, strict=True)}.values()
        self.dropped, self.bad_boxes = (
            tuple(itertools.chain.from_iterable(getattr(part, kind) for part in self._whole))
            for kind in ("dropped", "bad_boxes")
        )
        self.absent = tuple(name for name in parts[0].absent if all(name in part.absent for part in parts))
        self._ends = list(itertools.accumulate(map(len, parts)))

    @property
    def clipped_boxes(self) -> int:
        return sum(part.clipped_boxes for part in self._whole)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int):
        part, place = self._find(index)
        return part[place]

    def name(self, index: int) -> str:
        part, place = self._find(index)
        return part.name(place)

    def size(self, index: int) -> tuple[int, int]:
        part, place = self._find(index)
        return part.size(place)

    def image_id(self, index: int) -> int:
        """As the part has it: two images of different parts may have the same."""
        part, place = self._find(index)
        return part.image_id(place)

    def objects(self, index: int):
        part, place = self._find(index)
        return part.objects(place)

    def find_bad_boxes(self, index: int) -> tuple[str, ...]:
        part, place = self._find(index)
        return part.find_bad_boxes(place)

    def _find(self, index: int) -> tuple[Any, int]:
        """The part that holds an example, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)


def _differences(first: Any, second: Any) -> str:
    for one, other in itertools.zip_longest(first.class_names, second.class_names, fillvalue="none"):
        if one != other:
            return f"{one!r} there, {other!r} here"
    return "none"
