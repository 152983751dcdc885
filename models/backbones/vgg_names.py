"""Names of VGG's weights in files made from torchvision and timm."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from errors import UserError

Path = tuple[str, ...]
Convert = Callable[[np.ndarray], np.ndarray]

MARK = "features.0.weight"
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
CLASSIFIERS = {  # names of fc6, fc7 and the last layer, which is left unused
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
}


def match(
    keys: Iterable[str], repeats: tuple[int, ...], norm: bool, classifier: bool, thinned: int | None
) -> tuple[dict[Path, tuple[str, Convert]], frozenset[str]]:
    """Pairs our arrays with the file's; see VGG.pretrained. `repeats` are the convolutions of each stage.

    `norm` says that each of them has batch normalisation, `classifier` that fc6 and fc7 are wanted, and `thinned` how
    many channels an atrous fc6 and fc7 have; it is None where they are the file's own.
    """
    keys = frozenset(keys)
    if MARK not in keys:
        raise UserError(f"pretrained: the file holds no VGG whose names are known; it has no {MARK!r}")
    if norm != ("features.1.running_mean" in keys):
        ours, theirs = ("'batch'", "has no") if norm else ("'none'", "has")
        raise UserError(f"pretrained: model.backbone.norm is {ours}, and the file {theirs} batch statistics")
    mapping, index = {}, 0
    for stage, count in enumerate(repeats, 1):
        for number in range(1, count + 1):
            path = (f"conv_{stage}_{number}",)
            mapping[(*path, "conv", "kernel")] = (f"features.{index}.weight", _oihw_to_hwio)
            mapping[(*path, "conv", "bias")] = (f"features.{index}.bias", _same)
            if norm:
                for ours, theirs in NORM.items():
                    mapping[(*path, "norm", ours)] = (f"features.{index + 1}.{theirs}", _same)
            index += 3 if norm else 2  # after the convolution: its normalisation, and a ReLU
        index += 1  # the pooling
    style = "timm" if "pre_logits.fc1.weight" in keys else "torchvision"
    *hidden, last = CLASSIFIERS[style]
    if classifier:
        fc6, fc7, bias = _fc6, _fc7, _same
        if thinned is not None:
            fc6, fc7, bias = (partial(convert, thinned) for convert in (_thin_fc6, _thin_fc7, _thin))
        for ours, theirs, kernel in zip(("fc6", "fc7"), hidden, (fc6, fc7), strict=True):
            mapping[ours, "kernel"] = (f"{theirs}.weight", kernel)
            mapping[ours, "bias"] = (f"{theirs}.bias", bias)
    unused = {last} if classifier else {*hidden, last}
    return mapping, frozenset(
        key for key in keys if key.rpartition(".")[0] in unused or key.endswith("num_batches_tracked")
    )


def _oihw_to_hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


def _fc6(kernel: np.ndarray) -> np.ndarray:
    """From [out, in * 7 * 7], or the convolution [out, in, 7, 7] of timm."""
    return _oihw_to_hwio(kernel.reshape(len(kernel), -1, 7, 7))


def _fc7(kernel: np.ndarray) -> np.ndarray:
    """From [out, in], or the convolution [out, in, 1, 1] of timm."""
    return _oihw_to_hwio(kernel.reshape(len(kernel), -1, 1, 1))


def _thin_fc6(channels: int, kernel: np.ndarray) -> np.ndarray:
    """[3,3,in,channels]: rows and columns 0, 3 and 6 of the 7x7."""
    return _thin(channels, _fc6(kernel)[::3, ::3])


def _thin_fc7(channels: int, kernel: np.ndarray) -> np.ndarray:
    """[1,1,channels,channels]: the inputs are the channels that fc6 has kept."""
    return _thin(channels, _thin(channels, _fc7(kernel), axis=2))


def _thin(channels: int, array: np.ndarray, axis: int = -1) -> np.ndarray:
    """`channels` of an axis, as evenly spaced as they can be ("subsample parameters", Liu et al. 2016, section 3)."""
    count = array.shape[axis]
    if channels > count:
        raise UserError(f"pretrained: the file's fc6 and fc7 have {count} channels, model.fc wants {channels}")
    return array.take(np.arange(channels) * count // channels, axis)


def _same(array: np.ndarray) -> np.ndarray:
    return array
