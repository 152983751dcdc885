"""Names of whole detectors' weights in files made from torchvision, with backbone, neck and heads.

Each function pairs a detector's variables with the keys of a file; `pretrained` of the detector's class calls it. Boxes are
(x, y) in torchvision and (y, x) here, so the outputs of layers of boxes are reordered.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from errors import UserError
from models.backbones.weights import match_vgg_features
from models.ops.anchors import Placement
from models.registry import Backbone
from models.weights import Arrays, Classes, Convert, Path, Weights, conv, iohw_to_hwio, oihw_to_hwio, same, strip

SSD_MARK = "head.classification_head.module_list.0.weight"
PYRAMID_MARK = "head.classification_head.cls_logits.weight"
RPN_MARK = "rpn.head."  # prefix of the keys of a two-stage detector's first stage
MASK_MARK = "roi_heads.mask_"  # prefix of the keys of its masks
# Keys that identify torchvision's whole detectors, in its newest names.
RESNET_FPN = frozenset({"backbone.fpn.inner_blocks.0.0.weight", "backbone.body.layer1.0.conv1.weight"})
TOWERS = frozenset({"head.classification_head.conv.0.0.weight", "head.regression_head.conv.0.0.weight"})
SSD_KEYS = frozenset({SSD_MARK})
FCOS_KEYS = RESNET_FPN | {PYRAMID_MARK}
RETINANET_KEYS = FCOS_KEYS | TOWERS
FASTER_RCNN_KEYS = RESNET_FPN | {f"{RPN_MARK}conv.0.0.weight"}
MASK_RCNN_KEYS = FASTER_RCNN_KEYS | {f"{MASK_MARK}head.0.0.weight"}
# model.sizes, model.steps and model.within of torchvision's ssd300_vgg16; a weights file does not contain them.
DEFAULT_BOXES = ((0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05), (8.0, 16.0, 32.0, 64.0, 100.0, 300.0), True)
RATIOS, OCTAVES = (2.0, 1.0, 0.5), 3  # width / height of the anchors of torchvision's RetinaNet, in their order
# (dx, dy, dw, dh) as (ty, tx, th, tw), and (left, top, right, bottom) as (top, left, bottom, right)
TRANSPOSED = (1, 0, 3, 2)


def match_backbone(backbone: Backbone, keys: frozenset[str]) -> Weights:
    """Pair a detector's `backbone` with the arrays of a whole detector's file."""
    return backbone.pretrained(strip(keys, "backbone.")).named("backbone.").below("backbone")


def match_ssd(repeats: tuple[int, ...], shapes: Sequence[int], l2_norm: bool) -> Weights:
    """Pair the arrays of SSD on an atrous VGG with torchvision's (ssd300_vgg16).

    See SSD.pretrained. `repeats` are the convolutions of each stage of VGG. `shapes` are the numbers of shapes of a cell of
    each map, whose order is the same in torchvision.
    """
    *before, last = repeats
    backbone = match_vgg_features("backbone.features", tuple(before))
    for number in range(1, last + 1):  # number 0 is the pooling before them, and each has a ReLU
        backbone |= conv((f"conv_{len(repeats)}_{number}", "conv"), f"backbone.extra.0.{2 * number - 1}", bias=True)
    fc = f"backbone.extra.0.{2 * last + 1}"
    backbone |= conv(("fc6",), f"{fc}.1", bias=True) | conv(("fc7",), f"{fc}.3", bias=True)
    weights = Weights(backbone, frozenset()).below("backbone")
    arrays: Arrays = {("l2_norm", "scale"): ("backbone.scale_weight", same)} if l2_norm else {}
    for number in range(1, len(shapes) - 1):  # two maps belong to the backbone
        for part in (1, 2):
            arrays |= conv((f"extra_{number}_{part}", "conv"), f"backbone.extra.{number}.{2 * part - 2}", bias=True)
    weights = weights.joined(Weights(arrays, frozenset()))
    for level, count in enumerate(shapes):
        boxes = match_boxes((f"offsets_{level}",), f"head.regression_head.module_list.{level}", range(count))
        name = f"head.classification_head.module_list.{level}"
        weights = weights.joined(boxes)
        weights = weights.joined(match_classes((f"logits_{level}",), name, range(count), background=True))
    return weights


def match_retinanet(keys: frozenset[str], tower: int, norm: str, order: Sequence[int]) -> Weights:
    """Pair the heads of RetinaNet with torchvision's (retinanet_resnet50_fpn).

    See RetinaNet.pretrained. `tower` and `norm` are those of models.heads.dense.Tower; `order` is the result of
    `order_anchors`.
    """
    return (
        _match_towers(keys, tower, norm)
        .joined(match_boxes(("offsets",), "head.regression_head.bbox_reg", order))
        .joined(match_classes(("logits",), "head.classification_head.cls_logits", order, background=False))
    )


def match_fcos(keys: frozenset[str], tower: int, norm: str) -> Weights:
    """Pair the heads of FCOS with torchvision's (fcos_resnet50_fpn).

    See FCOS.pretrained and `match_retinanet`.
    """
    centerness = Weights(conv(("centerness",), "head.regression_head.bbox_ctrness", bias=True), frozenset())
    weights = _match_towers(keys, tower, norm).joined(centerness)
    weights = weights.joined(match_boxes(("distances",), "head.regression_head.bbox_reg", (0,)))
    return weights.joined(match_classes(("logits",), "head.classification_head.cls_logits", (0,), background=False))


def match_faster_rcnn(keys: frozenset[str], order: Sequence[int], size: tuple[int, int]) -> Weights:
    """Pair the heads of Faster R-CNN with torchvision's (fasterrcnn_resnet50_fpn).

    See FasterRCNN.pretrained. `order` is the result of `order_anchors`, and `size` the size of a region's features.
    """
    inner = ".0.0" if f"{RPN_MARK}conv.0.0.weight" in keys else ""  # files from before torchvision 0.13 lack it
    objectness = _choose_outputs(("rpn", "logits"), f"{RPN_MARK}cls_logits", _choose(order))
    head, predictor = "roi_heads.box_head", "roi_heads.box_predictor"
    logits = _connected(("box_head", "logits"), f"{predictor}.cls_score", same)
    offsets = _connected(
        ("box_head", "offsets"), f"{predictor}.bbox_pred", Convert(_put_coordinates_first, _put_coordinates_last)
    )
    arrays = (
        conv(("rpn", "conv"), f"{RPN_MARK}conv{inner}", bias=True)
        | objectness
        | _connected(("box_head", "fc6"), f"{head}.fc6", _put_channels_last(size))
        | _connected(("box_head", "fc7"), f"{head}.fc7", same)
        | logits
        | offsets
    )
    classes = dict.fromkeys(logits, Classes(1, True)) | dict.fromkeys(offsets, Classes(4, True))
    weights = Weights(arrays, frozenset(), classes)
    return weights.joined(match_boxes(("rpn", "offsets"), f"{RPN_MARK}bbox_pred", order))


def match_mask_rcnn(keys: frozenset[str], depth: int) -> Weights:
    """Pair the head of masks, of `depth` convolutions, with torchvision's (maskrcnn_resnet50_fpn).

    See MaskRCNN.pretrained.
    """
    head, predictor = "roi_heads.mask_head", "roi_heads.mask_predictor"
    nested = f"{head}.0.0.weight" in keys  # files from before torchvision 0.13 count from mask_fcn1
    arrays: Arrays = {}
    for number in range(1, depth + 1):
        key = f"{head}.{number - 1}.0" if nested else f"{head}.mask_fcn{number}"
        arrays |= conv((f"conv_{number}",), key, bias=True)
    upsample = {
        "kernel": (f"{predictor}.conv5_mask.weight", iohw_to_hwio),
        "bias": (f"{predictor}.conv5_mask.bias", same),
    }
    arrays |= {("upsample", ours): source for ours, source in upsample.items()}
    logits = conv(("logits",), f"{predictor}.mask_fcn_logits", bias=True)
    return Weights(arrays | logits, frozenset(), dict.fromkeys(logits, Classes(1, True))).below("mask_head")


def _connected(path: Path, key: str, convert: Convert) -> Arrays:
    """Return the arrays of a fully connected layer [out,in] after `convert`.

    Ours is a 1x1 convolution.
    """
    return {
        (*path, "kernel"): (f"{key}.weight", convert.then(OI_TO_HWIO)),
        (*path, "bias"): (f"{key}.bias", convert),
    }


OI_TO_HWIO = Convert(lambda kernel: kernel.T[None, None], lambda kernel: kernel[0, 0].T)


def _put_channels_last(size: tuple[int, int]) -> Convert:
    """Return the conversion from [out,C*h*w], PyTorch's order of features, to [out,h*w*C].

    A bias [out] is unchanged.
    """

    def forth(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(len(kernel), -1, *size).transpose(0, 2, 3, 1).reshape(kernel.shape)

    def back(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(len(kernel), *size, -1).transpose(0, 3, 1, 2).reshape(kernel.shape)

    return Convert(
        lambda array: array if array.ndim == 1 else forth(array),
        lambda array: array if array.ndim == 1 else back(array),
    )


def _put_coordinates_first(array: np.ndarray) -> np.ndarray:
    """Convert [classes*4,...] of (x, y) to [4*classes,...] of (y, x)."""
    boxes = array.reshape(-1, 4, *array.shape[1:])
    return boxes[:, list(TRANSPOSED)].swapaxes(0, 1).reshape(array.shape)


def _put_coordinates_last(array: np.ndarray) -> np.ndarray:
    """Convert [4*classes,...] of (y, x) to [classes*4,...] of (x, y)."""
    boxes = array.reshape(4, -1, *array.shape[1:])
    return boxes[list(TRANSPOSED)].swapaxes(0, 1).reshape(array.shape)  # TRANSPOSED is its own inverse


def order_anchors(octaves: int, ratios: Sequence[float], placement: Placement, published: int = OCTAVES) -> list[int]:
    """Return the index among a cell's anchors in torchvision's detectors, with `published` octaves, of each of our anchors.

    See `models.ops.anchors.pyramid`. Raises UserError if ours have other shapes.
    """
    theirs = [(ratio, octave) for ratio in RATIOS for octave in range(published)]
    if placement == "corners":
        ours = [(ratio, octave) for ratio in ratios for octave in range(octaves)]
    else:
        ours = [(ratio, octave) for octave in range(octaves) for ratio in ratios]
    if sorted(ours) != sorted(theirs):
        raise UserError(
            f"pretrained: the file's anchors have model.octaves={published} and model.ratios={RATIOS}, in any order, not "
            f"{octaves} and {tuple(ratios)}; use those, or a file of the backbone"
        )
    return [theirs.index(shape) for shape in ours]


def _match_towers(keys: frozenset[str], tower: int, norm: str) -> Weights:
    """Return the convolutions and group normalisations of both branches, or raise UserError for another normalisation."""
    if norm not in ("none", "group"):
        raise UserError(f"pretrained: no published detector has model.norm={norm!r}; choose 'none' or 'group'")
    parts, arrays = (1 if norm == "none" else 2), {}
    for path, key in (("class_tower", "head.classification_head.conv"), ("box_tower", "head.regression_head.conv")):
        nested = f"{key}.0.0.weight" in keys  # one block per convolution; other files count all layers, ReLUs included
        for number in range(tower):
            first = f"{key}.{number}.0" if nested else f"{key}.{number * (parts + 1)}"
            second = f"{key}.{number}.1" if nested else f"{key}.{number * (parts + 1) + 1}"
            arrays |= conv((path, f"conv_{number + 1}"), first, bias=True)
            if norm == "group":
                own = {"scale": "weight", "bias": "bias"}
                arrays |= {
                    (path, f"norm_{number + 1}", ours): (f"{second}.{theirs}", same) for ours, theirs in own.items()
                }
    return Weights(arrays, frozenset())


def match_boxes(path: Path, key: str, order: Sequence[int]) -> Weights:
    """Return the arrays of the convolution that predicts the four numbers of a box for each shape of a cell.

    `order` has the index of each of our shapes among the file's shapes.
    """
    outputs = [4 * shape + number for shape in order for number in TRANSPOSED]
    return Weights(_choose_outputs(path, key, _choose(outputs)), frozenset())


def match_classes(path: Path, key: str, order: Sequence[int], *, background: bool) -> Weights:
    """Return the arrays of the convolution that predicts a value of each class for each shape of a cell.

    `order` is that of `match_boxes`.
    """
    arrays = _choose_outputs(path, key, _order_groups(order))
    return Weights(arrays, frozenset(), dict.fromkeys(arrays, Classes(len(order), background)))


def _choose_outputs(path: Path, key: str, choose: Convert) -> Arrays:
    """Return the arrays of a convolution with a bias, whose outputs, the first axis, `choose` has ordered."""
    layouts = {"kernel": ("weight", oihw_to_hwio), "bias": ("bias", same)}
    return {(*path, ours): (f"{key}.{theirs}", choose.then(layout)) for ours, (theirs, layout) in layouts.items()}


def _choose(order: Sequence[int]) -> Convert:
    """Return the conversion that brings the outputs, the first axis, into an order that contains each once."""
    back = np.argsort(order)
    return Convert(lambda array: array.take(order, axis=0), lambda array: array.take(back, axis=0))


def _order_groups(order: Sequence[int]) -> Convert:
    """Return the conversion that brings the groups of [groups * classes, ...] into the given order."""

    def choose(order: Sequence[int], array: np.ndarray) -> np.ndarray:
        if len(array) % len(order):
            raise UserError(
                f"pretrained: {len(array)} outputs are not those of {len(order)} shapes in a cell; set model.ratios"
            )
        groups = array.reshape(len(order), -1, *array.shape[1:])
        return groups[list(order)].reshape(array.shape)

    return Convert(partial(choose, order), partial(choose, np.argsort(order).tolist()))
