"""Detectors with random weights by torchvision's names, as files and as networks of torchvision.

An array depends only on its key and shape, so it is the same with and without PyTorch. Columns whose number is not a COCO class
are switched off, as training does.
"""

import importlib
import math
import zlib

import numpy as np
from ml_collections import ConfigDict

from experiments.run import state as states
from input_pipeline.datasets.coco import CATEGORY_IDS

DETECTORS = ("ssd300", "retinanet", "fcos", "faster_rcnn", "mask_rcnn")
TWO_STAGES = DETECTORS[3:]
CONFIGS = {name: f"{name}_r50_fpn_coco" for name in TWO_STAGES} | {name: f"{name}_coco" for name in DETECTORS[:3]}
CLASSES, BOXES, FPN = "head.classification_head", "head.regression_head", "backbone.fpn.inner_blocks.0.0.weight"
BODY = "backbone.body.layer1.0.conv1.weight"
MARKS = {  # keys that identify the file
    "ssd300": (f"{CLASSES}.module_list.0.weight",),
    "retinanet": (f"{CLASSES}.cls_logits.weight", f"{CLASSES}.conv.0.0.weight", f"{BOXES}.conv.0.0.weight", FPN, BODY),
    "fcos": (f"{CLASSES}.cls_logits.weight", FPN, BODY),
    "faster_rcnn": ("rpn.head.conv.0.0.weight", FPN, BODY),
    "mask_rcnn": ("rpn.head.conv.0.0.weight", "roi_heads.mask_head.0.0.weight", FPN, BODY),
}
COLUMNS = 91  # one per number of a COCO class
WIDTH = 64  # FPN width of a small detector
SIZES = {"ssd300": (300, 300)} | dict.fromkeys(DETECTORS[1:], (96, 160))  # input sizes of the networks
DEVIATIONS = {  # factors on the kernels' deviations, by parts of their keys, which keep scores and boxes reasonable
    "ssd300": {"backbone.features.0.": 1 / 64},
    "retinanet": {"inner_blocks": 0.2, "cls_logits": 0.3, "bbox_reg": 0.1},
    "fcos": {"inner_blocks": 0.2, "cls_logits": 0.7, "bbox_reg": 0.3},
} | {key: {"inner_blocks": 0.2, "bbox_pred": 0.1} for key in TWO_STAGES}


def configure(name: str, small: bool) -> ConfigDict:
    """Return the config of a published detector at its size in SIZES, or a `small` one with fewer layers."""
    config = importlib.import_module(f"configs.{CONFIGS[name]}").get_config()
    if name == "ssd300":
        config.model.backbone.layers = 11 if small else 16
        return config
    config.data.update(shortest=SIZES[name], canvases=(SIZES[name], SIZES[name][::-1]))
    config.data.name = "coco/2017"  # its classes are known without its files
    if small:
        config.model.backbone.width = WIDTH
        config.model.backbone.bottom_up.layers = 10
    return config


def draw_file(name: str, config: ConfigDict, columns: int = COLUMNS) -> dict[str, np.ndarray]:
    """Return the arrays of a file for the config's model with `columns` of classes. Of 91, COCO's 80 are used."""
    background = name in ("ssd300", *TWO_STAGES)  # torchvision counts it as a class, we do not
    _, shapes, _ = states.describe(config, columns - background)
    weights = states.blueprint(config, columns - background).pretrained(MARKS[name])
    arrays = {}
    for path, (key, _) in weights.arrays.items():
        shape = shapes["/".join(map(str, path))].shape
        if len(shape) == 4:
            connected = "box_head" in key or "box_predictor" in key
            shape = (shape[3], shape[2], *(() if connected else shape[:2]))
            if "conv5_mask" in key:  # a transposed convolution
                shape = (shape[1], shape[0], *shape[2:])
        arrays[key] = _draw(name, key, shape)
        if path in weights.classes and columns == COLUMNS:
            unused = np.setdiff1d(np.arange(columns), [*CATEGORY_IDS, *[0] * background])
            if "bbox_pred" not in key and "mask" not in key:
                groups = arrays[key].reshape(-1, columns, *arrays[key].shape[1:])
                groups[:, unused] = -30.0 if key.endswith("bias") else 0.0
    return arrays


def _draw(name: str, key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if len(shape) > 1:
        factor = next((factor for part, factor in DEVIATIONS[name].items() if part in key), 1.0)
        values = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:])) * factor
    elif key.endswith("scale_weight"):
        values = rng.uniform(10, 30, shape)
    elif key.endswith(("weight", "running_var")):
        # Small for the last norm of a bottleneck, or sums over 16 blocks would grow.
        values = rng.uniform(0.5, 1.5, shape) * (0.25 if key.endswith("bn3.weight") else 1.0)
    else:
        mean = -3.0 if "cls_logits" in key else 2.0 if "bbox_reg" in key and name == "fcos" else 0.0
        values = rng.normal(mean, 0.1, shape)
    return values.astype(np.float32)


def draw_image(size: tuple[int, int]) -> np.ndarray:
    """Return an image [H,W,3] uint8 of smooth blobs and some noise."""
    rng = np.random.default_rng(3)
    rows, columns = (np.linspace(0, 1, side)[:, None, None] for side in size)
    waves = rng.uniform(2, 30, (3, 6)), rng.uniform(2, 30, (3, 6)), rng.uniform(0, 6, (3, 6))
    phase = rows[..., None] * waves[0] + np.swapaxes(columns, 0, 1)[..., None] * waves[1] + waves[2]
    return np.clip(127 + 30 * np.sin(phase).sum(-1) + rng.normal(0, 3, (*size, 3)), 0, 255).astype(np.uint8)


def build_network(name: str, config: ConfigDict, arrays: dict[str, np.ndarray]):
    """Return torchvision's network of a config, with exactly the `arrays` of a file."""
    torch, torchvision = map(importlib.import_module, ("torch", "torchvision"))
    detection, ops = torchvision.models.detection, torchvision.ops
    columns, make_norm = dict(num_classes=COLUMNS, weights=None, weights_backbone=None), ops.misc.FrozenBatchNorm2d
    if name == "ssd300" and config.model.backbone.layers == 16:
        network = detection.ssd300_vgg16(**columns)
    elif name == "ssd300":
        ssd = importlib.import_module("torchvision.models.detection.ssd")
        backbone = ssd._vgg_extractor(torchvision.models.vgg11(weights=None), False, 5)
        boxes = detection.anchor_utils.DefaultBoxGenerator(
            [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            scales=list(config.model.sizes),
            steps=[8, 16, 32, 64, 100, 300],
        )
        pixels = dict(image_mean=[0.48235, 0.45882, 0.40784], image_std=[1 / 255] * 3)
        network = ssd.SSD(backbone, boxes, (300, 300), COLUMNS, **pixels)
    else:
        scaled = dict(min_size=config.data.shortest[0], max_size=config.data.shortest[1])
        if config.model.backbone.bottom_up.layers == 50:
            network = getattr(detection, f"{name.replace('_', '')}_resnet50_fpn")(**columns, **scaled)
        else:
            resnet = torchvision.models.resnet
            body = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], norm_layer=make_norm)
            two_stage = name in TWO_STAGES
            stages = [f"layer{number}" for number in range(1 if two_stage else 2, 5)]
            levels = {stage: str(number) for number, stage in enumerate(stages)}
            parts = ops.feature_pyramid_network
            coarser = parts.LastLevelMaxPool() if two_stage else parts.LastLevelP6P7(WIDTH, WIDTH)
            channels = [64, 128, 256, 512][-len(stages) :]
            pyramid = detection.backbone_utils.BackboneWithFPN(body, levels, channels, WIDTH, coarser)
            kinds = dict(retinanet=detection.RetinaNet, fcos=detection.FCOS, faster_rcnn=detection.FasterRCNN)
            kinds |= dict(mask_rcnn=detection.MaskRCNN)
            network = kinds[name](pyramid, COLUMNS, **scaled)
    if name in ("retinanet", *TWO_STAGES):  # as with its published weights
        for module in network.modules():
            if isinstance(module, (make_norm, torch.nn.BatchNorm2d)):
                module.eps = 0.0
    state = {key: torch.from_numpy(array) for key, array in arrays.items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing), (missing, unexpected)
    return network.eval()


def detect(network, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the detections of a torchvision network in an image [H,W,3] uint8, in our box order and classes.

    Mask R-CNN also has `masks` [D,28,28] over the boxes, and `pixels` [D,H,W] bool, the pasted masks.
    """
    torch = importlib.import_module("torch")
    raw = []  # at the network's own size
    stages = getattr(network, "roi_heads", torch.nn.Identity())
    with torch.no_grad(), stages.register_forward_hook(lambda _, __, results: raw.append(dict(results[0][0]))):
        (found,) = network([torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)])
    masks = {}
    if "masks" in found:
        masks = {"masks": raw[0]["masks"][:, 0].numpy(), "pixels": found["masks"][:, 0].numpy() > 0.5}
    return masks | {
        "boxes": found["boxes"].numpy()[:, [1, 0, 3, 2]],
        "scores": found["scores"].numpy(),
        "classes": np.searchsorted(CATEGORY_IDS, found["labels"].numpy()),
    }
