"""Losses and detections of RetinaNet and FCOS equal torchvision's, for the same raw outputs and its own settings."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import common, detectors
from experiments.tasks import registry
from models.ops import boxes as ops
from models.ops import nms
from models.ops.anchors import pyramid
from tests.experiments.tasks.scenes import CLASSES, make_batch

torch = pytest.importorskip("torch", reason="compares with torchvision")
detection = pytest.importorskip("torchvision.models.detection", reason="compares with torchvision")

STRIDES = (8, 16, 32, 64, 128)
SIZE = (96, 160)
ORDER = [1, 0, 3, 2]  # (top, left, bottom, right) and (left, top, right, bottom)
OBJECTS = [((5, 9, 60, 71), 0, ""), ((30, 80, 41, 110), 2, ""), ((0, 20, 96, 150), 1, ""), ((50, 60, 58, 69), 1, "")]


class Pair(SimpleNamespace):
    """Our task and torchvision's network of one kind, the levels' anchors, and raw outputs for one image."""


def make(use, network, scale, octaves, ratios, names):
    config = common.get_config()
    use(config)
    task = registry.make_task(config, CLASSES)
    backbone = torch.nn.Identity()
    backbone.out_channels = 32
    levels = pyramid(SIZE, STRIDES, scale, octaves, ratios, "corners")
    rng = np.random.default_rng(0)
    count = sum(level.size // 4 for level in levels)
    outputs = {name: rng.standard_normal((1, count, *shape)).astype(np.float32) for name, shape in names.items()}
    return Pair(task=task, theirs=network(backbone, len(CLASSES)), levels=levels, outputs=outputs)


@pytest.fixture(scope="module")
def retinanet():
    names = {"logits": (3,), "offsets": (4,)}
    return make(detectors.use_retinanet, detection.RetinaNet, 4.0, 3, (2.0, 1.0, 0.5), names)


@pytest.fixture(scope="module")
def fcos():
    names = {"logits": (3,), "distances": (4,), "centerness": ()}

    def use(config):
        detectors.use_fcos(config)
        config.task.box_weights = "equal"

    pair = make(use, detection.FCOS, 1.0, 1, (1.0,), names)
    pair.outputs["distances"] = np.abs(pair.outputs["distances"])
    return pair


def split(pair):
    ends = np.cumsum([level.size // 4 for level in pair.levels])[:-1]
    outputs = {name: tuple(np.split(rows, ends, 1)) for name, rows in pair.outputs.items()}
    return outputs | {"anchors": pair.levels}


def theirs(pair):
    """The outputs by torchvision's names, in its order of coordinates; and the anchors."""
    outputs = {name: torch.from_numpy(rows) for name, rows in pair.outputs.items()}
    named = {"cls_logits": outputs["logits"]}
    if "offsets" in outputs:
        named["bbox_regression"] = outputs["offsets"][..., ORDER]
    else:
        named["bbox_regression"] = outputs["distances"][..., ORDER]
        named["bbox_ctrness"] = outputs["centerness"][..., None]
    anchors = torch.from_numpy(np.concatenate([level.reshape(-1, 4) for level in pair.levels]))[:, ORDER]
    return named, anchors


@pytest.mark.parametrize("objects", [OBJECTS, []])
@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_losses_equal_torchvisions(name, objects, request):
    pair = request.getfixturevalue(name)
    (named, anchors), sizes = theirs(pair), [level.size // 4 for level in pair.levels]
    boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float32).reshape(-1, 4)[:, ORDER]
    targets = [{"boxes": boxes, "labels": torch.tensor([index for _, index, _ in objects], dtype=torch.int64)}]
    expected = pair.theirs.compute_loss(targets, named, [anchors], *([sizes] if name == "fcos" else []))
    terms, _ = jax.jit(pair.task.loss)(split(pair), {key: rows[:1] for key, rows in make_batch(objects).items()})
    other = {"classification": "classification", "localisation": "bbox_regression", "centerness": "bbox_ctrness"}
    assert len(terms) == len(expected)
    for term, mean in terms.items():
        np.testing.assert_allclose(mean.value(), expected[other[term]], rtol=1e-4)


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_detections_equal_torchvisions(name, request):
    pair = request.getfixturevalue(name)
    task, (named, anchors) = pair.task, theirs(pair)
    sizes = [level.size // 4 for level in pair.levels]
    parts = {key: list(rows.split(sizes, dim=1)) for key, rows in named.items()}
    (expected,) = pair.theirs.postprocess_detections(parts, [list(anchors.split(sizes))], [SIZE])

    @jax.jit
    def detect(outputs):
        boxes, scores = task.decode(outputs, SIZE)
        boxes = [ops.clip(level[0], SIZE) for level in boxes]
        own = dict(score=task.score_threshold, iou=task.nms_iou)
        own |= dict(candidates=task.nms_candidates, count=task.max_detections)
        return nms.detect_levels(boxes, [level[0] for level in scores], **own)

    boxes, scores, classes, mask = map(np.asarray, detect(split(pair)))
    assert mask.sum() == len(expected["scores"]) > 50
    np.testing.assert_allclose(scores[mask], expected["scores"], rtol=1e-5)
    np.testing.assert_array_equal(classes[mask], expected["labels"])
    np.testing.assert_allclose(boxes[mask], expected["boxes"][:, ORDER], atol=1e-3)
