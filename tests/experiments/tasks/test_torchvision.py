"""Losses and detections equal those of torchvision, for the same raw outputs and torchvision's settings."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
    """Our task, the same network of torchvision, the anchors of the levels, and raw outputs for one image."""


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
    """Return the anchors, and the outputs with torchvision's names and order of coordinates."""
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
def test_losses_equal_torchvision(name, objects, request):
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
def test_detections_equal_torchvision(name, request):
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


class Stages:
    """A stand-in for Faster R-CNN. The first stage has known outputs, the second one is linear in the box of a region."""

    def __init__(self, pair):
        self.pair = pair
        rng = np.random.default_rng(1)
        self.logits = rng.normal(0, 0.02, (4, 1 + len(CLASSES))).astype(np.float32)
        self.offsets = rng.normal(0, 0.01, (4, 1 + len(CLASSES), 4)).astype(np.float32)

    def features(self, images, *, train, rngs):
        return None

    def propose(self, features):
        return {name: levels for name, levels in split(self.pair).items() if name != "anchors"}

    def geometry(self, size):
        return {"anchors": self.pair.levels}

    def classify(self, features, regions, *, train, rngs=None):
        return {"logits": regions @ self.logits, "offsets": jnp.einsum("brx,xcn->brcn", regions, self.offsets)}


@pytest.mark.parametrize("objects", [OBJECTS, []])
def test_losses_of_both_stages_equal_torchvision(objects):
    """All anchors and all regions are sampled, so nothing is random."""

    def use(config):
        detectors.use_faster_rcnn(config)
        config.task.update(anchors=5000, anchor_share=1.0, regions=3000, region_share=1.0)

    rng = np.random.default_rng(2)
    config = common.get_config()
    use(config)
    task = registry.make_task(config, CLASSES)
    levels = pyramid(SIZE, (4, *STRIDES[:-1]), 8.0, 1, (2.0, 1.0, 0.5), "corners")
    count = sum(level.size // 4 for level in levels)
    outputs = {"objectness": rng.standard_normal((1, count)), "shifts": 0.3 * rng.standard_normal((1, count, 4))}
    outputs = {name: rows.astype(np.float32) for name, rows in outputs.items()}
    pair = Pair(task=task, levels=levels, outputs=outputs)
    stages, batch = Stages(pair), {key: rows[:1] for key, rows in make_batch(objects).items()}
    batch |= {"image": np.zeros((1, *SIZE, 3), np.uint8), "original_size": np.array([SIZE], np.int32)}

    def run(key):
        outputs = task.apply(stages, batch, train=True, rngs=nnx.Rngs(key))
        return outputs, task.loss(outputs, batch)[0]

    found, terms = jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(0)))

    backbone = torch.nn.Identity()
    backbone.out_channels = 32
    network = detection.FasterRCNN(backbone, 1 + len(CLASSES), rpn_anchor_generator=None)
    rpn, heads = network.rpn, network.roi_heads
    rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction = count, 1.0
    anchors = torch.from_numpy(np.concatenate([level.reshape(-1, 4) for level in levels]))[:, ORDER]
    boxes = torch.tensor([box for box, _, _ in objects], dtype=torch.float32).reshape(-1, 4)[:, ORDER]
    targets = [{"boxes": boxes, "labels": torch.tensor([1 + index for _, index, _ in objects], dtype=torch.int64)}]
    labels, matched = rpn.assign_targets_to_anchors([anchors], targets)
    shifts = torch.from_numpy(outputs["shifts"][0])[:, ORDER]
    wanted = rpn.box_coder.encode(matched, [anchors])
    objectness, moved = rpn.compute_loss(torch.from_numpy(outputs["objectness"][0])[:, None], shifts, labels, wanted)
    np.testing.assert_allclose(terms["objectness"].value(), objectness, rtol=1e-4)
    np.testing.assert_allclose(terms["proposals"].value(), moved, rtol=1e-4, atol=1e-7)

    # The proposals equal those of torchvision for the same outputs, in any order.
    per_level = [level.size // 4 for level in levels]
    decoded = rpn.box_coder.decode(shifts, [anchors]).view(1, -1, 4)
    rpn.train()
    (proposals,), _ = rpn.filter_proposals(decoded, torch.from_numpy(outputs["objectness"]), [SIZE], per_level)
    heads.fg_bg_sampler.batch_size_per_image, heads.fg_bg_sampler.positive_fraction = 3000, 1.0
    regions, _, labels, wanted = heads.select_training_samples([proposals], targets)
    own = found["regions"][0][found["region_mask"][0]]
    distances = np.abs(own[:, None] - regions[0].numpy()[None, :, ORDER]).max(-1)
    assert len(own) == len(regions[0]) > 100 and max(distances.min(0).max(), distances.min(1).max()) < 1e-3

    shown = stages.classify(None, regions[0].numpy()[None, :, ORDER], train=True)
    offsets = torch.from_numpy(np.array(shown["offsets"][0]))[:, :, ORDER].reshape(len(own), -1)
    logits = torch.from_numpy(np.array(shown["logits"][0]))
    expected = detection.roi_heads.fastrcnn_loss(logits, offsets, labels, wanted)
    np.testing.assert_allclose(terms["classification"].value(), expected[0], rtol=1e-4)
    np.testing.assert_allclose(terms["localisation"].value(), expected[1], rtol=1e-4, atol=1e-7)


def test_mask_loss_equals_torchvision(monkeypatch):
    """Both losses get the same targets, because torchvision crops its targets from masks of whole images."""
    config = common.get_config()
    detectors.use_mask_rcnn(config)
    task = registry.make_task(config, CLASSES)
    rng = np.random.default_rng(7)
    classes = rng.integers(0, 4, (2, 5))  # 0 is the background
    logits = rng.standard_normal((2, 5, 28, 28, 4)).astype(np.float32)
    targets = rng.uniform(0, 1, (2, 5, 28, 28)).astype(np.float32)
    outputs = {
        "mask_logits": np.take_along_axis(logits, classes[..., None, None, None], -1)[..., 0],
        "mask_targets": targets,
        "mask_positive": classes > 0,
    }
    ours = task.masks_loss(outputs)

    chosen = [torch.from_numpy(np.flatnonzero(row)) for row in classes]
    heads = detection.roi_heads
    given = iter(torch.from_numpy(rows)[index] for rows, index in zip(targets, chosen, strict=True))
    monkeypatch.setattr(heads, "project_masks_on_boxes", lambda *_: next(given))
    labels = [torch.from_numpy(row) for row in classes]
    mine = torch.from_numpy(logits.transpose(0, 1, 4, 2, 3))
    mine = torch.cat([rows[index] for rows, index in zip(mine, chosen, strict=True)])
    expected = heads.maskrcnn_loss(mine, chosen, labels, labels, chosen)
    np.testing.assert_allclose(ours.value(), expected.numpy(), rtol=1e-5)
