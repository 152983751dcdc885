"""How the arrays of a file of published weights fit a module: paths of ours, keys of theirs, and layouts.

A module that published weights exist for has `pretrained(keys)`, which returns Weights; the keys tell their library.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

Path = tuple[str, ...]
Convert = Callable[[np.ndarray], np.ndarray]
Arrays = dict[Path, tuple[str, Convert]]  # path of our variable: (key in the file, function from its array to ours)

PYTORCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
UNCOUNTED = "num_batches_tracked"  # PyTorch's step counter of a batch normalisation, which has no place here


class Classes(NamedTuple):
    """What the last axis of a class layer's array holds: for each of `groups` a value of every class.

    With a `background`, our first class is that one. How many classes the file has, and which, is for the reader to find out.
    """

    groups: int
    background: bool


class Weights(NamedTuple):
    """Where a module's variables come from, and the keys of the file that are left unused on purpose.

    `classes` are those of the arrays that depend on the classes: what their conversion gives has the file's classes.
    """

    arrays: Arrays
    unused: frozenset[str]
    classes: Mapping[Path, Classes] = MappingProxyType({})

    def below(self, *prefix: str) -> "Weights":
        """Returns the same of a module that has this one at `prefix`."""
        arrays = {(*prefix, *path): source for path, source in self.arrays.items()}
        return self._replace(arrays=arrays, classes={(*prefix, *path): axis for path, axis in self.classes.items()})

    def named(self, prefix: str) -> "Weights":
        """Returns the same of a file whose keys have a `prefix`, which `strip` has taken off."""
        arrays = {path: (prefix + key, convert) for path, (key, convert) in self.arrays.items()}
        return self._replace(arrays=arrays, unused=frozenset(prefix + key for key in self.unused))

    def joined(self, other: "Weights") -> "Weights":
        """Returns these and those of an `other` part of the same module."""
        classes = {**self.classes, **other.classes}
        return Weights(self.arrays | other.arrays, self.unused | other.unused, classes)


def strip(keys: Iterable[str], prefix: str) -> frozenset[str]:
    """Returns the keys that begin with `prefix`, without it."""
    return frozenset(key.removeprefix(prefix) for key in keys if key.startswith(prefix))


def same(array: np.ndarray) -> np.ndarray:
    """Returns `array`."""
    return array


def oihw_to_hwio(kernel: np.ndarray) -> np.ndarray:
    """Turns PyTorch's kernel [out,in,h,w] into ours [h,w,in,out]; a depthwise one [channels,1,h,w] too."""
    return kernel.transpose(2, 3, 1, 0)


def iohw_to_hwio(kernel: np.ndarray) -> np.ndarray:
    """Turns PyTorch's kernel [in,out,h,w] of a transposed convolution into ours [h,w,in,out]."""
    return kernel.transpose(2, 3, 0, 1)


def hwcm_to_hwio(kernel: np.ndarray) -> np.ndarray:
    """Turns Keras's depthwise kernel [h,w,channels,1] into ours [h,w,1,channels]."""
    return kernel.transpose(0, 1, 3, 2)


def conv(path: Path, key: str, *, bias: bool = False) -> Arrays:
    """The arrays of a convolution of PyTorch's."""
    arrays: Arrays = {(*path, "kernel"): (f"{key}.weight", oihw_to_hwio)}
    return arrays | {(*path, "bias"): (f"{key}.bias", same)} if bias else arrays


def norm(path: Path, key: str) -> Arrays:
    """The arrays of a batch normalisation of PyTorch's."""
    return {(*path, ours): (f"{key}.{theirs}", same) for ours, theirs in PYTORCH_NORM.items()}


def find_unused(keys: frozenset[str], layers: set[str], separator: str = ".") -> frozenset[str]:
    """The keys of the `layers`, and PyTorch's counters."""
    return frozenset(key for key in keys if key.rpartition(separator)[0] in layers or key.endswith(UNCOUNTED))
