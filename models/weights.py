"""Pairing of a module's variables with the arrays of a published weights file, by paths, keys and layouts.

A module with published weights has `pretrained(keys)`, which returns Weights; the keys identify the library. Most layouts can
be converted back, so our variables can also be written under the names of other libraries.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from errors import UserError

Path = tuple[str, ...]
Change = Callable[[np.ndarray], np.ndarray]

PYTORCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Keys that identify torchvision's newest names, of a backbone with an FPN and of backbones alone.
BACKBONES = (
    frozenset({"fpn.inner_blocks.0.0.weight", "body.layer1.0.conv1.weight"}),
    frozenset({"layer1.0.conv1.weight"}),
    frozenset({"features.0.weight", "classifier.0.weight"}),
    frozenset({"features.0.weight", "classifier.0.weight", "features.1.running_mean"}),
    frozenset({"features.0.0.weight"}),
)
UNCOUNTED = "num_batches_tracked"  # PyTorch's step counter of a batch normalisation, which we do not have


class Convert(NamedTuple):
    """A function from a file's array to ours, and its inverse `back`, None if ours is only a part of the file's array."""

    forth: Change
    back: Change | None

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return self.forth(array)

    def then(self, other: "Convert") -> "Convert":
        """Return this conversion followed by the `other` one."""
        own, others = self.back, other.back
        back = None if own is None or others is None else lambda array: own(others(array))
        return Convert(lambda array: other.forth(self.forth(array)), back)


Arrays = dict[Path, tuple[str, Convert]]  # path of our variable: (key in the file, conversion of its array to ours)


class Classes(NamedTuple):
    """The layout of the last axis of a class layer's array, which has a value of every class for each of `groups`.

    With `background`, our first class is the background. Whoever reads the file finds out which classes it has.
    """

    groups: int
    background: bool


class Weights(NamedTuple):
    """The sources of a module's variables, and the keys of the file that are left unused on purpose.

    `classes` has the arrays that depend on the classes; after their conversion they still have the file's classes.
    """

    arrays: Arrays
    unused: frozenset[str]
    classes: Mapping[Path, Classes] = MappingProxyType({})

    def below(self, *prefix: str) -> "Weights":
        """Return these weights for a module that has this one at `prefix`."""
        arrays = {(*prefix, *path): source for path, source in self.arrays.items()}
        return self._replace(arrays=arrays, classes={(*prefix, *path): axis for path, axis in self.classes.items()})

    def named(self, prefix: str) -> "Weights":
        """Return these weights for a file whose keys have a `prefix`, which `strip` has removed."""
        arrays = {path: (prefix + key, convert) for path, (key, convert) in self.arrays.items()}
        return self._replace(arrays=arrays, unused=frozenset(prefix + key for key in self.unused))

    def joined(self, other: "Weights") -> "Weights":
        """Return these weights and those of an `other` part of the same module."""
        classes = {**self.classes, **other.classes}
        return Weights(self.arrays | other.arrays, self.unused | other.unused, classes)


class Published(Protocol):
    """A model with published weights.

    See models.registry.Model.
    """

    torchvision: frozenset[str]

    def pretrained(self, keys: Iterable[str]) -> Weights: ...


def name_by_torchvision(model: Published, variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of the model, or of its backbone, by torchvision's names, which `model.pretrained` reads back.

    `variables` are named by their paths, a/b/c. The result is empty if torchvision has no such network, and if ours has only
    a part of its arrays.
    """
    for marks in filter(None, (model.torchvision, *BACKBONES)):
        try:
            arrays = model.pretrained(marks).arrays
        except UserError:
            continue  # the keys are those of another network
        backs = {path: (key, convert.back) for path, (key, convert) in arrays.items() if convert.back}
        if arrays and len(backs) == len(arrays):
            own = {key: back(variables["/".join(path)]) for path, (key, back) in backs.items()}
            return {key: np.ascontiguousarray(array) for key, array in own.items()}
    return {}


def strip(keys: Iterable[str], prefix: str) -> frozenset[str]:
    """Return the keys that begin with `prefix`, without it."""
    return frozenset(key.removeprefix(prefix) for key in keys if key.startswith(prefix))


same = Convert(lambda array: array, lambda array: array)


def _transpose(*axes: int) -> Convert:
    """Return the conversion that brings the axes into this order."""
    back = tuple(np.argsort(axes).tolist())
    return Convert(lambda array: array.transpose(axes), lambda array: array.transpose(back))


oihw_to_hwio = _transpose(2, 3, 1, 0)  # PyTorch's kernel [out,in,h,w], also a depthwise kernel [channels,1,h,w]
iohw_to_hwio = _transpose(2, 3, 0, 1)  # PyTorch's kernel [in,out,h,w] of a transposed convolution
hwcm_to_hwio = _transpose(0, 1, 3, 2)  # Keras's depthwise kernel [h,w,channels,1]


def conv(path: Path, key: str, *, bias: bool = False) -> Arrays:
    """Return the arrays of a PyTorch convolution."""
    arrays: Arrays = {(*path, "kernel"): (f"{key}.weight", oihw_to_hwio)}
    return arrays | {(*path, "bias"): (f"{key}.bias", same)} if bias else arrays


def norm(path: Path, key: str) -> Arrays:
    """Return the arrays of a PyTorch batch normalisation."""
    return {(*path, ours): (f"{key}.{theirs}", same) for ours, theirs in PYTORCH_NORM.items()}


def find_unused(keys: frozenset[str], layers: set[str], separator: str = ".") -> frozenset[str]:
    """Return the keys of the `layers`, and PyTorch's counters."""
    return frozenset(key for key in keys if key.rpartition(separator)[0] in layers or key.endswith(UNCOUNTED))
