"""Names of MobileNetV2's weights in files made from torchvision, timm and Keras."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from errors import UserError

Path = tuple[str, ...]
Convert = Callable[[np.ndarray], np.ndarray]

# Parts of a block in order; each is a convolution and its normalisation. The first block has no expansion.
PARTS = ("expand", "depthwise", "project")


def torchvision(repeats: tuple[int, ...]) -> Iterator[tuple[Path, str]]:
    """Pairs of our layer's path and torchvision's name; an empty path marks a layer that we leave unused."""
    yield from ((("stem", "conv"), "features.0.0"), (("stem", "norm"), "features.0.1"))
    for number in range(sum(repeats)):
        parts = PARTS[number == 0 :]
        for index, part in enumerate(parts):
            # Activated convolutions are Sequential(conv, norm); the projection's two stand in the block itself.
            bare = part == "project"
            prefix = f"features.{number + 1}.conv"
            yield (f"block_{number}", part, "conv"), f"{prefix}.{index}" if bare else f"{prefix}.{index}.0"
            yield (f"block_{number}", part, "norm"), f"{prefix}.{index + 1}" if bare else f"{prefix}.{index}.1"
    head = sum(repeats) + 1
    yield from (((), f"features.{head}.0"), ((), f"features.{head}.1"), ((), "classifier.1"))


def timm(repeats: tuple[int, ...]) -> Iterator[tuple[Path, str]]:
    """As `torchvision`, for timm's mobilenetv2 models."""
    yield from ((("stem", "conv"), "conv_stem"), (("stem", "norm"), "bn1"))
    places = [(stage, repeat) for stage, count in enumerate(repeats) for repeat in range(count)]
    for number, (stage, repeat) in enumerate(places):
        convs = ("conv_dw", "conv_pw") if number == 0 else ("conv_pw", "conv_dw", "conv_pwl")
        for index, (part, conv) in enumerate(zip(PARTS[number == 0 :], convs, strict=True)):
            yield (f"block_{number}", part, "conv"), f"blocks.{stage}.{repeat}.{conv}"
            yield (f"block_{number}", part, "norm"), f"blocks.{stage}.{repeat}.bn{index + 1}"
    yield from (((), "conv_head"), ((), "bn2"), ((), "classifier"))


def keras(repeats: tuple[int, ...]) -> Iterator[tuple[Path, str]]:
    """As `torchvision`, for keras.applications."""
    yield from ((("stem", "conv"), "Conv1"), (("stem", "norm"), "bn_Conv1"))
    for number in range(sum(repeats)):
        for part in PARTS[number == 0 :]:
            layer = f"expanded_conv_{part}" if number == 0 else f"block_{number}_{part}"
            yield (f"block_{number}", part, "conv"), layer
            yield (f"block_{number}", part, "norm"), f"{layer}_BN"
    yield from (((), "Conv_1"), ((), "Conv_1_bn"), ((), "predictions"))


def _oihw_to_hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)


def _hwcm_to_hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(0, 1, 3, 2)


def _same(array: np.ndarray) -> np.ndarray:
    return array


class Style(NamedTuple):
    """How a library names its layers and their arrays."""

    layers: Callable[[tuple[int, ...]], Iterator[tuple[Path, str]]]
    variant: str  # padding and epsilon that its weights were trained with
    mark: str  # a key that only this style has
    separator: str
    kernel: tuple[str, Convert]
    depthwise_kernel: tuple[str, Convert]
    norm: tuple[str, str, str, str]  # names of scale, bias, mean and var


_TORCH = ("weight", _oihw_to_hwio)  # depthwise too: [channels, 1, 3, 3]
_TORCH_NORM = ("weight", "bias", "running_mean", "running_var")
STYLES = {
    "torchvision": Style(torchvision, "torchvision", "features.0.0.weight", ".", _TORCH, _TORCH, _TORCH_NORM),
    "timm": Style(timm, "torchvision", "conv_stem.weight", ".", _TORCH, _TORCH, _TORCH_NORM),
    "Keras": Style(
        keras,
        "keras",
        "Conv1/kernel",
        "/",
        ("kernel", _same),
        ("depthwise_kernel", _hwcm_to_hwio),
        ("gamma", "beta", "moving_mean", "moving_variance"),
    ),
}


def match(
    keys: Iterable[str], variant: str, repeats: tuple[int, ...]
) -> tuple[dict[Path, tuple[str, Convert]], frozenset[str]]:
    """Pairs our arrays with the file's; see MobileNetV2.pretrained. `repeats` are the blocks of each stage."""
    keys = frozenset(keys)
    name = next((name for name, style in STYLES.items() if style.mark in keys), None)
    if name is None:
        marks = ", ".join(f"{style.mark!r} ({name})" for name, style in STYLES.items())
        raise UserError(f"pretrained: the file holds no MobileNetV2 whose names are known; it has none of {marks}")
    style = STYLES[name]
    if style.variant != variant:
        raise UserError(
            f"pretrained: weights with the names of {name} need model.variant={style.variant!r}, not {variant!r}: "
            "another padding would give wrong features"
        )
    last = f"block_{sum(repeats) - 1}"
    mapping, unused = {}, set()
    for path, layer in style.layers(repeats):
        if path in ((), (last, "project", "norm")):  # our features end before these
            unused.add(layer)
        elif path[-1] == "norm":
            for ours, theirs in zip(("scale", "bias", "mean", "var"), style.norm, strict=True):
                mapping[(*path, ours)] = (f"{layer}{style.separator}{theirs}", _same)
        else:
            array, convert = style.depthwise_kernel if "depthwise" in path else style.kernel
            # The last projection has no normalisation, and so no level between it and its kernel.
            path = path[:-1] if path[:2] == (last, "project") else path
            mapping[(*path, "kernel")] = (f"{layer}{style.separator}{array}", convert)
    ignored = {
        key for key in keys if key.rpartition(style.separator)[0] in unused or key.endswith("num_batches_tracked")
    }
    return mapping, frozenset(ignored)
