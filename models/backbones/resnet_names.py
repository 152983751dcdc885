"""Names of ResNet's weights in files made from torchvision and timm, which agree."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from errors import UserError

Path = tuple[str, ...]
Convert = Callable[[np.ndarray], np.ndarray]

MARK = "layer1.0.conv1.weight"
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def pairs(repeats: tuple[int, ...], convolutions: int, projected: frozenset[int]) -> Iterator[tuple[Path, str, str]]:
    """(path of our ConvNorm, name of the file's convolution, name of its normalisation), for every one.

    `repeats` are the blocks of each stage, `convolutions` those in the path of a block, and `projected` the stages
    whose first block has a convolution on its shortcut.
    """
    yield ("stem",), "conv1", "bn1"
    for stage, count in enumerate(repeats, 1):
        for number in range(count):
            ours, theirs = f"block_{stage}_{number}", f"layer{stage}.{number}"
            for index in range(1, convolutions + 1):
                yield (ours, f"conv_{index}"), f"{theirs}.conv{index}", f"{theirs}.bn{index}"
            if number == 0 and stage in projected:
                yield (ours, "shortcut"), f"{theirs}.downsample.0", f"{theirs}.downsample.1"


def match(
    keys: Iterable[str], repeats: tuple[int, ...], convolutions: int, projected: frozenset[int]
) -> tuple[dict[Path, tuple[str, Convert]], frozenset[str]]:
    """Pairs our arrays with the file's; see ResNet.pretrained, and `pairs` for the rest."""
    keys = frozenset(keys)
    if MARK not in keys:
        raise UserError(f"pretrained: the file holds no ResNet whose names are known; it has no {MARK!r}")
    mapping = {}
    for path, conv, norm in pairs(repeats, convolutions, projected):
        mapping[(*path, "conv", "kernel")] = (f"{conv}.weight", _oihw_to_hwio)
        for ours, theirs in NORM.items():
            mapping[(*path, "norm", ours)] = (f"{norm}.{theirs}", _same)
    return mapping, frozenset(key for key in keys if key.startswith("fc.") or key.endswith(".num_batches_tracked"))


def _oihw_to_hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


def _same(array: np.ndarray) -> np.ndarray:
    return array
