"""A source with a model's classes, made from one that has only some of them or another order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from errors import UserError
from input_pipeline.batch import IGNORE, Example, Size
from input_pipeline.objects import Objects


def relabel(source: Any, class_names: Sequence[str], split: str) -> Any:
    """Return `source`, the examples of `split`, with a model's `class_names`. The source may lack some of them.

    Raise UserError where the source has a class that the model does not have.
    """
    class_names = tuple(class_names)
    if tuple(source.class_names) == class_names:
        return source
    unknown = [name for name in source.class_names if name not in class_names]
    if unknown:
        raise UserError(
            f"{split} has classes that the model was not trained on: {', '.join(map(repr, unknown))}; the model's classes are "
            f"{', '.join(map(repr, class_names))}; use data with these class names"
        )
    return Relabelled(source, class_names)


class Relabelled:
    """The examples of `source` with the classes `class_names`, which include the source's own."""

    def __init__(self, source: Any, class_names: tuple[str, ...]):
        self._source, self.class_names = source, class_names
        self._places = np.array([class_names.index(name) for name in source.class_names], np.int32)
        self._labels = np.full(IGNORE + 1, IGNORE, np.uint8)  # by the source's own
        self._labels[: len(self._places)] = self._places
        lacking = [name for name in class_names if name not in source.class_names]
        self.absent = (*source.absent, *lacking)
        numbers = dict(zip(source.class_names, source.category_ids, strict=True))
        free = max(source.category_ids, default=0) + 1
        numbers |= {name: free + place for place, name in enumerate(lacking)}
        self.category_ids = tuple(numbers[name] for name in class_names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)  # attributes that do not depend on classes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        if "label" in example:
            example = example | {"label": self._labels[example["label"]]}
        return self._place(example)

    def objects(self, index: int) -> tuple[Size, Objects]:
        size, objects = self._source.objects(index)
        return size, self._place(objects)

    def _place(self, objects: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "classes" not in objects:
            return objects
        return objects | {"classes": self._places[objects["classes"]]}
