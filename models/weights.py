"""How the arrays of a file of published weights fit a module: paths of ours, keys of theirs, and layouts.

A module that published weights exist for has `pretrained(keys)`, which returns Weights; the keys tell their library. Most
layouts have a way back, so that our variables can be written by others' names.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from errors import UserError

Path = tuple[str, ...]
Change = Callable[[np.ndarray], np.ndarray]

PYTORCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Keys that tell torchvision's newest names: of a backbone with an FPN, and of backbones alone.
BACKBONES = (
    frozenset({"fpn.inner_blocks.0.0.weight", "body.layer1.0.conv1.weight"}),
    frozenset({"layer1.0.conv1.weight"}),
    frozenset({"features.0.weight", "classifier.0.weight"}),
    frozenset({"features.0.weight", "classifier.0.weight", "features.1.running_mean"}),
    frozenset({"features.0.0.weight"}),
)
UNCOUNTED = "num_batches_tracked"  # PyTorch's step counter of a batch normalisation, which has no place here


class Convert(NamedTuple):
    """A function from a file's array to ours, and the one `back`: None where ours is only a part of the file's."""

    forth: Change
    back: Change | None

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return self.forth(array)

    def then(self, other: "Convert") -> "Convert":
        """Returns this conversion followed by the `other` one."""
        lost = self.back is None or other.back is None
        return Convert(
            lambda array: other.forth(self.forth(array)), None if lost else lambda array: self.back(other.back(array))
        )


Arrays = dict[Path, tuple[str, Convert]]  # path of our variable: (key in the file, from its array to ours)


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


class Published(Protocol):
    """What has published weights; see models.registry.Model."""

    torchvision: frozenset[str]

    def pretrained(self, keys: Iterable[str]) -> Weights: ...


def name_by_torchvision(model: Published, variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by torchvision's names, which `model.pretrained` reads back: of all or of its backbone.

    `variables` have their paths as names, a/b/c. Without arrays where torchvision has no such network, and where ours keeps
    only a part of its arrays.
    """
    for marks in filter(None, (model.torchvision, *BACKBONES)):
        try:
            arrays = model.pretrained(marks).arrays
        except UserError:
            continue  # it is of another network
        if arrays and all(convert.back for _, convert in arrays.values()):
            own = {key: convert.back(variables["/".join(path)]) for path, (key, convert) in arrays.items()}
            return {key: np.ascontiguousarray(array) for key, array in own.items()}
    return {}


def strip(keys: Iterable[str], prefix: str) -> frozenset[str]:
    """Returns the keys that begin with `prefix`, without it."""
    return frozenset(key.removeprefix(prefix) for key in keys if key.startswith(prefix))


same = Convert(lambda array: array, lambda array: array)


def _transpose(*axes: int) -> Convert:
    """Returns what brings the axes into this order."""
    back = tuple(np.argsort(axes).tolist())
    return Convert(lambda array: array.transpose(axes), lambda array: array.transpose(back))


oihw_to_hwio = _transpose(2, 3, 1, 0)  # PyTorch's kernel [out,in,h,w], a depthwise one [channels,1,h,w] too
iohw_to_hwio = _transpose(2, 3, 0, 1)  # PyTorch's kernel [in,out,h,w] of a transposed convolution
hwcm_to_hwio = _transpose(0, 1, 3, 2)  # Keras's depthwise kernel [h,w,channels,1]


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
