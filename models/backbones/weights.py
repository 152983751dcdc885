"""Names of the backbones' weights in files made from torchvision, timm and Keras.

Each function pairs a backbone's variables with the keys of a file; `pretrained` of the backbone's class calls it.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from errors import UserError
from models.weights import Arrays, Convert, Path, Weights, conv, find_unused, hwcm_to_hwio, norm, oihw_to_hwio, same


def check_norm(name: str, field: str) -> None:
    """Raise UserError unless the normalisation `name`, the value of `field`, has batch statistics."""
    if name not in ("batch", "frozen"):
        raise UserError(f"pretrained: the weights hold batch statistics; {field}={name!r} has none, take 'batch'")


# VGG

VGG_MARK = "features.0.weight"
VGG_CLASSIFIERS = {  # names of fc6, fc7 and the last layer, which is left unused
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
}
VGG_FC6 = (7 * 7 * 512, 4096)  # inputs and outputs


def match_vgg(
    keys: Iterable[str], repeats: tuple[int, ...], normalised: bool, classifier: bool, thinned: int | None
) -> Weights:
    """Pair VGG's arrays with those of torchvision or timm.

    See VGG.pretrained. `repeats` are the convolutions of each stage. `normalised` means that each of them has batch
    normalisation, and `classifier` that fc6 and fc7 are wanted. `thinned` is the number of channels of an atrous fc6 and
    fc7, None if they have the file's own.
    """
    keys = frozenset(keys)
    if VGG_MARK not in keys:
        raise UserError(f"pretrained: the file holds no VGG of torchvision or timm; it has no {VGG_MARK!r}")
    if normalised != ("features.1.running_mean" in keys):
        ours, other, theirs = ("'batch'", "'none'", "has no") if normalised else ("'none'", "'batch'", "has")
        raise UserError(
            f"pretrained: model.backbone.norm is {ours}, and the file {theirs} batch statistics; set it to {other}"
        )
    arrays = match_vgg_features("features", repeats, normalised)
    *hidden, last = _classifier_names(keys)
    if classifier:
        fc6, fc7, bias = _fc6, _fc7, same
        if thinned is not None:
            fc6, fc7, bias = (Convert(partial(thin, thinned), None) for thin in (_thin_fc6, _thin_fc7, _thin))
        for ours, theirs, kernel in zip(("fc6", "fc7"), hidden, (fc6, fc7), strict=True):
            arrays[ours, "kernel"] = (f"{theirs}.weight", kernel)
            arrays[ours, "bias"] = (f"{theirs}.bias", bias)
    return Weights(arrays, find_unused(keys, {last} if classifier else {*hidden, last}))


def match_vgg_head(keys: frozenset[str], fc6: tuple[int, ...]) -> Weights:
    """Pair fc6 and fc7 of a head on regions of 7x7 with those of VGG's `keys`, as 1x1 convolutions.

    The result is empty if `fc6`, the head's inputs and outputs, has another size, or if the keys are not VGG's.
    """
    first, second, _ = _classifier_names(keys)
    if fc6 != VGG_FC6 or f"{first}.weight" not in keys:
        return Weights({}, frozenset())
    arrays: Arrays = {}
    for path, name, convert in (("fc6", first, _connected_fc6), ("fc7", second, _fc7)):
        arrays[path, "kernel"], arrays[path, "bias"] = (f"{name}.weight", convert), (f"{name}.bias", same)
    return Weights(arrays, frozenset())


def _classifier_names(keys: frozenset[str]) -> tuple[str, str, str]:
    return VGG_CLASSIFIERS["timm" if "pre_logits.fc1.weight" in keys else "torchvision"]


def match_vgg_features(prefix: str, repeats: tuple[int, ...], normalised: bool = False) -> Arrays:
    """Return the arrays of VGG's convolutions, which PyTorch counts below `prefix` together with ReLUs and poolings."""
    arrays, index = {}, 0
    for stage, count in enumerate(repeats, 1):
        for number in range(1, count + 1):
            path = (f"conv_{stage}_{number}",)
            arrays |= conv((*path, "conv"), f"{prefix}.{index}", bias=True)
            if normalised:
                arrays |= norm((*path, "norm"), f"{prefix}.{index + 1}")
            index += 3 if normalised else 2  # after the convolution: its normalisation, and a ReLU
        index += 1  # the pooling
    return arrays


def _unfold(size: int) -> Convert:
    """Return the conversion from [out, in * size * size] to [out, in, size, size], which timm's arrays are already."""
    return Convert(
        lambda kernel: kernel.reshape(len(kernel), -1, size, size), lambda kernel: kernel.reshape(len(kernel), -1)
    )


_fc6, _fc7 = _unfold(7).then(oihw_to_hwio), _unfold(1).then(oihw_to_hwio)
# [7,7,in,out] and [1,1,7*7*in,out], channels last.
_connected_fc6 = _fc6.then(
    Convert(
        lambda kernel: kernel.reshape(1, 1, -1, kernel.shape[-1]),
        lambda kernel: kernel.reshape(7, 7, -1, kernel.shape[-1]),
    )
)


def _thin_fc6(channels: int, kernel: np.ndarray) -> np.ndarray:
    """Return rows and columns 0, 3 and 6 of the 7x7, [3,3,in,channels]."""
    return _thin(channels, _fc6(kernel)[::3, ::3])


def _thin_fc7(channels: int, kernel: np.ndarray) -> np.ndarray:
    """Return fc7 with the channels that fc6 has kept as its inputs, [1,1,channels,channels]."""
    return _thin(channels, _thin(channels, _fc7(kernel), axis=2))


def _thin(channels: int, array: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return evenly spaced `channels` of an axis ("subsample parameters", Liu et al. 2016, section 3)."""
    count = array.shape[axis]
    if channels > count:
        raise UserError(
            f"pretrained: the file's fc6 and fc7 have {count} channels, model.fc wants {channels}; lower model.fc"
        )
    return array.take(np.arange(channels) * count // channels, axis)


# ResNet

RESNET_MARK = "layer1.0.conv1.weight"


def match_resnet(
    keys: Iterable[str], repeats: tuple[int, ...], convolutions: int, projected: frozenset[int]
) -> Weights:
    """Pair ResNet's arrays with those of torchvision or timm, whose names agree.

    See ResNet.pretrained. `repeats` are the blocks of each stage, `convolutions` the number in the path of a block, and
    `projected` the stages whose first block has a convolution on its shortcut.
    """
    keys = frozenset(keys)
    if RESNET_MARK not in keys:
        raise UserError(f"pretrained: the file holds no ResNet of torchvision or timm; it has no {RESNET_MARK!r}")
    arrays = {}
    for path, kernel, statistics in _resnet_layers(repeats, convolutions, projected):
        arrays |= conv((*path, "conv"), kernel) | norm((*path, "norm"), statistics)
    return Weights(arrays, find_unused(keys, {"fc"}))


def _resnet_layers(
    repeats: tuple[int, ...], convolutions: int, projected: frozenset[int]
) -> Iterator[tuple[Path, str, str]]:
    """Yield (path of our ConvNorm, name of the file's convolution, name of its normalisation) of every ConvNorm."""
    yield ("stem",), "conv1", "bn1"
    for stage, count in enumerate(repeats, 1):
        for number in range(count):
            ours, theirs = f"block_{stage}_{number}", f"layer{stage}.{number}"
            for index in range(1, convolutions + 1):
                yield (ours, f"conv_{index}"), f"{theirs}.conv{index}", f"{theirs}.bn{index}"
            if number == 0 and stage in projected:
                yield (ours, "shortcut"), f"{theirs}.downsample.0", f"{theirs}.downsample.1"


# FPN

FPN_KEYS, BODY = "fpn.", "body."  # prefixes of its own arrays, and of its backbone's


def match_fpn(keys: frozenset[str], merged: tuple[int, ...], convolved: tuple[int, ...]) -> Weights:
    """Pair an FPN's own arrays, without its backbone's, with torchvision's.

    See FPN.pretrained. `merged` are the strides that it takes from its backbone, and `convolved` the strides that
    convolutions add.
    """
    inner = ".0" if "fpn.inner_blocks.0.0.weight" in keys else ""  # files from before torchvision 0.13 lack it
    arrays = {}
    for number, stride in enumerate(merged):
        arrays |= conv((f"lateral_{stride}",), f"fpn.inner_blocks.{number}{inner}", bias=True)
        arrays |= conv((f"output_{stride}",), f"fpn.layer_blocks.{number}{inner}", bias=True)
    for number, stride in enumerate(convolved, 6):
        arrays |= conv((f"extra_{stride}",), f"fpn.extra_blocks.p{number}", bias=True)
    return Weights(arrays, frozenset())


# MobileNetV2 and EfficientNet-Lite

# Parts of a block in order; each is a convolution and its normalisation. The first block has no expansion.
PARTS = ("expand", "depthwise", "project")
Layers = Iterator[tuple[Path, str]]  # a layer's path and name; an empty path marks a layer that we leave unused


def _torchvision_layers(repeats: tuple[int, ...]) -> Layers:
    yield from ((("stem", "conv"), "features.0.0"), (("stem", "norm"), "features.0.1"))
    for number in range(sum(repeats)):
        parts = PARTS[number == 0 :]
        for index, part in enumerate(parts):
            # Activated convolutions are Sequential(conv, norm); the projection's two parts are in the block itself.
            bare = part == "project"
            prefix = f"features.{number + 1}.conv"
            yield (f"block_{number}", part, "conv"), f"{prefix}.{index}" if bare else f"{prefix}.{index}.0"
            yield (f"block_{number}", part, "norm"), f"{prefix}.{index + 1}" if bare else f"{prefix}.{index}.1"
    head = sum(repeats) + 1
    yield from (((), f"features.{head}.0"), ((), f"features.{head}.1"), ((), "classifier.1"))


def _timm_layers(repeats: tuple[int, ...]) -> Layers:
    yield from ((("stem", "conv"), "conv_stem"), (("stem", "norm"), "bn1"))
    places = [(stage, repeat) for stage, count in enumerate(repeats) for repeat in range(count)]
    for number, (stage, repeat) in enumerate(places):
        # Only the first stage does not expand; it has one block in EfficientNet-Lite as in MobileNetV2.
        convs = ("conv_dw", "conv_pw") if number == 0 else ("conv_pw", "conv_dw", "conv_pwl")
        for index, (part, name) in enumerate(zip(PARTS[number == 0 :], convs, strict=True)):
            yield (f"block_{number}", part, "conv"), f"blocks.{stage}.{repeat}.{name}"
            yield (f"block_{number}", part, "norm"), f"blocks.{stage}.{repeat}.bn{index + 1}"
    yield from (((), "conv_head"), ((), "bn2"), ((), "classifier"))


def _efficientnet_pytorch_layers(repeats: tuple[int, ...]) -> Layers:
    """Yield the layers of the package EfficientNet-PyTorch, and of its successors for the Lite variants."""
    yield from ((("stem", "conv"), "_conv_stem"), (("stem", "norm"), "_bn0"))
    for number in range(sum(repeats)):
        for index, part in list(enumerate(PARTS))[number == 0 :]:
            yield (f"block_{number}", part, "conv"), f"_blocks.{number}._{part}_conv"
            yield (f"block_{number}", part, "norm"), f"_blocks.{number}._bn{index}"
    yield from (((), "_conv_head"), ((), "_bn1"), ((), "_fc"))


def _keras_layers(repeats: tuple[int, ...]) -> Layers:
    yield from ((("stem", "conv"), "Conv1"), (("stem", "norm"), "bn_Conv1"))
    for number in range(sum(repeats)):
        for part in PARTS[number == 0 :]:
            layer = f"expanded_conv_{part}" if number == 0 else f"block_{number}_{part}"
            yield (f"block_{number}", part, "conv"), layer
            yield (f"block_{number}", part, "norm"), f"{layer}_BN"
    yield from (((), "Conv_1"), ((), "Conv_1_bn"), ((), "predictions"))


class Style(NamedTuple):
    """A library's names of layers and arrays."""

    library: str
    layers: Callable[[tuple[int, ...]], Layers]
    variant: str  # the padding and epsilon of its weights, if a network has several
    mark: str  # a key that only this style has
    separator: str
    kernel: tuple[str, Convert]
    depthwise_kernel: tuple[str, Convert]
    norm: tuple[str, str, str, str]  # names of scale, bias, mean and var


_PYTORCH = (".", ("weight", oihw_to_hwio), ("weight", oihw_to_hwio), ("weight", "bias", "running_mean", "running_var"))
_KERAS_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_KERAS_2 = ("/", ("kernel", same), ("depthwise_kernel", hwcm_to_hwio), _KERAS_NORM)
_KERAS_3 = ("/", ("kernel", same), ("kernel", hwcm_to_hwio), _KERAS_NORM)
TIMM = Style("timm", _timm_layers, "torchvision", "conv_stem.weight", *_PYTORCH)
EFFICIENTNET_STYLES = (
    TIMM,
    Style("EfficientNet-PyTorch", _efficientnet_pytorch_layers, "", "_conv_stem.weight", *_PYTORCH),
)
STYLES = (
    Style("torchvision", _torchvision_layers, "torchvision", "features.0.0.weight", *_PYTORCH),
    TIMM,
    Style("Keras", _keras_layers, "keras", "expanded_conv_depthwise/depthwise_kernel", *_KERAS_2),
    Style("Keras", _keras_layers, "keras", "expanded_conv_depthwise/kernel", *_KERAS_3),
)


def match_mobilenet_v2(keys: Iterable[str], variant: str, repeats: tuple[int, ...]) -> Weights:
    """Pair MobileNetV2's arrays with the file's.

    See MobileNetV2.pretrained. `repeats` are the blocks of each stage.
    """
    keys = frozenset(keys)
    style = _find_style(keys, STYLES, "MobileNetV2")
    if style.variant != variant:
        raise UserError(
            f"pretrained: weights with the names of {style.library} need model.variant={style.variant!r}, not {variant!r}: "
            "another padding would give wrong features"
        )
    arrays, unused = _pair_layers(style, repeats)
    # Our features end at the last projection. It has no normalisation, so its kernel is not below "conv".
    last = f"block_{sum(repeats) - 1}"
    kernel = arrays.pop((last, "project", "conv", "kernel"))
    ours = {path: source for path, source in arrays.items() if path[:3] != (last, "project", "norm")}
    ended = {key.rpartition(style.separator)[0] for path, (key, _) in arrays.items() if path not in ours}
    return Weights(ours | {(last, "project", "kernel"): kernel}, find_unused(keys, unused | ended, style.separator))


def match_efficientnet_lite(keys: Iterable[str], repeats: tuple[int, ...]) -> Weights:
    """Pair EfficientNet-Lite's arrays with timm's (tf_efficientnet_lite0 to 4) or those of EfficientNet-PyTorch."""
    keys = frozenset(keys)
    style = _find_style(keys, EFFICIENTNET_STYLES, "EfficientNet-Lite")
    arrays, unused = _pair_layers(style, repeats)
    return Weights(arrays, find_unused(keys, unused))


def _find_style(keys: frozenset[str], styles: tuple[Style, ...], network: str) -> Style:
    """Return the style whose mark is among the keys, or raise UserError."""
    for style in styles:
        if style.mark in keys:
            return style
    marks = ", ".join(f"{style.mark!r} ({style.library})" for style in styles)
    raise UserError(f"pretrained: the file holds no {network} whose names are known; it has none of {marks}")


def _pair_layers(style: Style, repeats: tuple[int, ...]) -> tuple[Arrays, set[str]]:
    """Return the arrays of the layers with a path, and the names of the layers without one."""
    arrays, unused = {}, set()
    for path, layer in style.layers(repeats):
        if not path:
            unused.add(layer)
        elif path[-1] == "norm":
            for ours, theirs in zip(("scale", "bias", "mean", "var"), style.norm, strict=True):
                arrays[(*path, ours)] = (f"{layer}{style.separator}{theirs}", same)
        else:
            name, convert = style.depthwise_kernel if "depthwise" in path else style.kernel
            arrays[(*path, "kernel")] = (f"{layer}{style.separator}{name}", convert)
    return arrays, unused
