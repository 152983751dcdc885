"""The losses of Faster R-CNN equal plain loops if everything is sampled, and samples have the configured sizes."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from errors import UserError
from experiments.tasks import registry
from experiments.tasks.dense import is_inside
from models.detection.faster_rcnn import FasterRCNN
from models.ops.anchors import pyramid
from tests.experiments.tasks.scenes import CLASSES, MOST, SIZE, area, iou, make_batch, overlap, random_batch

REGULAR = pyramid(SIZE, (8, 16), 1.5, 1, (0.5, 1.0, 2.0))
# Moved a little, so that no two anchors overlap an object equally. Otherwise rounding would decide which one is best.
LEVELS = tuple(
    (level + np.random.default_rng(0).uniform(-0.5, 0.5, level.shape)).astype(np.float32) for level in REGULAR
)
ANCHORS = np.concatenate([level.reshape(-1, 4) for level in LEVELS])
ALL = dict(
    anchors=200, anchor_share=1.0, regions=60, region_share=1.0, proposal_candidates=(20, 20), proposals=(30, 10)
)
BETA = 1 / 9
rng = np.random.default_rng(5)
LOGITS, OFFSETS = rng.normal(0, 0.05, (4, 1 + len(CLASSES))), rng.normal(0, 0.02, (4, 1 + len(CLASSES), 4))
OBJECTNESS = [2 * rng.standard_normal((6, level.size // 4)).astype(np.float32) for level in LEVELS]
SHIFTS = [0.3 * rng.standard_normal((6, level.size // 4, 4)).astype(np.float32) for level in LEVELS]


@FasterRCNN.register
class Stages:
    """A model with known outputs, which are linear functions of a region's box."""

    def __init__(self, outputs):
        self.outputs = outputs

    def features(self, images, *, train, rngs):
        return {}

    def propose(self, features):
        return self.outputs

    def geometry(self, size):
        return {"anchors": LEVELS}

    def classify(self, features, regions, *, train, rngs=None):
        return {"logits": regions @ LOGITS, "offsets": jnp.einsum("brx,xcn->brcn", regions, OFFSETS)}


@cache
def make_task(**fields):
    config = common.get_config()
    detectors.use_light_faster_rcnn(config)
    config.task.update(ALL | fields)
    return registry.make_task(config, CLASSES)


def make_outputs(count=6):
    return {"objectness": tuple(x[:count] for x in OBJECTNESS), "shifts": tuple(x[:count] for x in SHIFTS)}


@cache
def compiled(task):
    @jax.jit
    def train(outputs, batch, key):
        outputs = task.apply(Stages(outputs), batch, train=True, rngs=nnx.Rngs(key))
        return outputs, *task.loss(outputs, batch)

    return train


def run(task, batch, seed=0):
    """Return (outputs of apply in training, terms, logs)."""
    return jax.tree.map(np.asarray, compiled(task)(make_outputs(), batch, jax.random.key(seed)))


@jax.jit
def gradients(outputs, batch):
    """Return the gradients of the total loss, and those of the loss of the second stage."""
    task = make_task()

    def losses(outputs):
        terms, _ = task.loss(task.apply(Stages(outputs), batch, train=True, rngs=nnx.Rngs(0)), batch)
        values = {name: term.value() for name, term in terms.items()}
        return sum(values.values()), values["classification"] + values["localisation"]

    _, pull = jax.vjp(losses, outputs)
    return pull((1.0, 0.0))[0], pull((0.0, 1.0))[0]


def assign(anchors, batch, row, low, high, low_quality, use_difficult):
    """Return (object or None, whether it counts) for each anchor, by loops."""
    boxes = batch["boxes"][row].astype(float)
    there = [i for i in range(MOST) if batch["valid"][row, i]]
    crowds = [i for i in there if batch["crowd"][row, i]]
    left = [i for i in there if i not in crowds and batch["difficult"][row, i] and not use_difficult]
    learned = [i for i in there if i not in crowds and i not in left and batch["example_mask"][row]]
    best = {i: max((iou(boxes[i], a) for a in anchors if area(a) > 0), default=0) for i in learned}
    result = []
    for anchor in anchors:
        value, owner = max(((iou(boxes[i], anchor), -i) for i in learned), default=(-1, 0))
        own = low_quality and any(iou(boxes[i], anchor) == best[i] > 0 for i in learned)
        if value >= high or own:
            result.append((-owner, True))
            continue
        on_crowd = any(overlap(anchor, boxes[i]) >= 0.5 * area(anchor) for i in crowds)
        on_left = any(iou(anchor, boxes[i]) >= low for i in left)
        result.append((None, value < low and not on_crowd and not on_left and batch["example_mask"][row]))
    return result


def encode(box, anchor, variances):
    (y, x), (h, w) = (anchor[:2] + anchor[2:]) / 2, anchor[2:] - anchor[:2]
    (cy, cx), (bh, bw) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    return np.array([(cy - y) / h, (cx - x) / w, np.log(bh / h), np.log(bw / w)]) / variances


def smooth_l1(errors, beta):
    errors = np.abs(errors)
    return np.where(errors < beta, errors**2 / (2 * beta), errors - beta / 2).sum()


# The paper differs from the FPN recipe in these fields.
PUBLISHED = dict(border_anchors=False, background_iou=0.1, beta=(BETA, 1.0))


@pytest.mark.parametrize(
    "fields", [pytest.param(dict(use_difficult=True), marks=pytest.mark.slow), dict(use_difficult=False), PUBLISHED]
)
def test_losses_equal_loops_if_all_anchors_and_regions_are_sampled(fields):
    batch, task = random_batch(np.random.default_rng(3)), make_task(**fields)
    use_difficult, published = task.use_difficult, fields is PUBLISHED
    inside = (ANCHORS[:, :2] >= 0).all(1) & (ANCHORS[:, 2:] <= SIZE).all(1)
    trained = np.flatnonzero(inside) if published else range(len(ANCHORS))
    assert 0 < inside.sum() < len(ANCHORS)
    _, terms, logs = run(task, batch)
    # The regions are all proposals of `propose` and the boxes of the objects.
    propose = jax.jit(lambda outputs, batch: task.propose(outputs | {"anchors": LEVELS}, batch, True))
    found, mask = map(np.asarray, propose(make_outputs(), batch))
    learnable = np.asarray(jax.jit(task.learnable)(batch))
    objectness, shifts = (np.concatenate(part, 1).astype(float) for part in (OBJECTNESS, SHIFTS))
    binary = moved = sampled = 0.0
    classified = located = regions = matched = left_out = 0.0
    for row in range(6):
        boxes = batch["boxes"][row].astype(float)
        targets = assign(ANCHORS[trained].astype(float), batch, row, 0.3, 0.7, True, use_difficult)
        for a, (owner, counted) in zip(trained, targets, strict=True):
            if counted:
                sign = 1 if owner is not None else -1
                binary += np.log1p(np.exp(-sign * objectness[row, a]))
                sampled += 1
            if owner is not None:
                moved += smooth_l1(shifts[row, a] - encode(boxes[owner], ANCHORS[a].astype(float), 1.0), BETA)
        learned = learnable[row]
        own = np.concatenate([found[row][mask[row]], batch["boxes"][row][learned]]).astype(float)
        for box, (owner, counted) in zip(own, assign(own, batch, row, 0.5, 0.5, False, use_difficult), strict=True):
            best = max((iou(box, boxes[i]) for i in np.flatnonzero(learned)), default=0)
            if not counted or (published and best < 0.1):
                left_out += counted
                continue
            logits = box @ LOGITS
            column = 0 if owner is None else 1 + batch["classes"][row, owner]
            classified += np.log(np.exp(logits).sum()) - logits[column]
            regions += 1
            if owner is not None:
                wanted = encode(boxes[owner], box, np.array([0.1, 0.1, 0.2, 0.2]))
                located += smooth_l1(box @ OFFSETS[:, column] - wanted, 1.0 if published else BETA)
                matched += 1
    expected = {
        "objectness": (binary, sampled),
        "proposals": (moved, sampled),
        "classification": (classified, regions),
        "localisation": (located, regions),
    }
    assert terms.keys() == expected.keys() and matched > 5 and (left_out > 5) == published
    for name, (total, weight) in expected.items():
        np.testing.assert_allclose((terms[name].total, terms[name].weight), (total, weight), rtol=1e-4, err_msg=name)
    np.testing.assert_allclose((logs["matched"].total, logs["matched"].weight), (matched, 5))


def test_samples_have_the_configured_count_and_share():
    fields = dict(anchors=12, anchor_share=0.25, regions=8, region_share=0.5)
    batch = random_batch(np.random.default_rng(3))
    task = make_task(**fields)
    outputs, _, _ = run(task, batch)
    anchors, regions = outputs["anchor_mask"].sum(1), outputs["region_mask"].sum(1)
    assert anchors.tolist() == [12, 12, 12, 12, 0, 12] and regions.tolist() == [8, 8, 8, 8, 0, 8]
    assert (outputs["anchor_positive"].sum(1) <= 3).all() and outputs["anchor_positive"].sum() > 3
    assert ((outputs["region_classes"] > 0).sum(1) <= 4).all() and (outputs["region_classes"] > 0).sum() > 4
    other, _, _ = run(task, batch, seed=1)
    assert not np.array_equal(outputs["regions"], other["regions"]), "other seed, other sample"
    again, _, _ = run(task, batch)
    np.testing.assert_array_equal(outputs["regions"], again["regions"])


def test_ground_truth_boxes_are_added_to_the_regions():
    box = (3, 40, 9, 47)  # no proposal is near it
    batch = make_batch([(box, 2, "")], *[[]] * 5)
    outputs, _, _ = run(make_task(use_difficult=False), batch)
    (place,) = np.flatnonzero((outputs["regions"][0] == box).all(-1))
    assert outputs["region_classes"][0, place] == 3 and outputs["region_mask"][0, place]
    np.testing.assert_array_equal(outputs["region_boxes"][0, place], box)


def test_losses_and_gradients_are_finite_without_objects_or_images():
    """The batch has padding, images without objects, an image with only a crowd, and an object without area."""
    batch = make_batch([], [((0, 0, *SIZE), 0, "c")], [((5, 5, 5, 5), 1, "")], *[[]] * 3)
    batch["example_mask"][[0, 5]] = False
    found, _ = jax.tree.map(np.asarray, gradients(make_outputs(), batch))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert all((x[0] == 0).all() for x in jax.tree.leaves(found)), "a padded row has no loss"


def test_proposals_have_no_gradient():
    whole, second_stage = gradients(make_outputs(), random_batch(np.random.default_rng(3)))
    assert all((x == 0).all() for x in jax.tree.leaves(second_stage))
    assert all((x != 0).any() for x in jax.tree.leaves(whole))


def test_evaluation_needs_neither_ground_truth_nor_random_numbers():
    batch = random_batch(np.random.default_rng(3))
    seen = {name: batch[name] for name in ("image", "original_size", "to_original", "example_mask", "boxes_lost")}
    task = make_task(score_threshold=0.0)

    @jax.jit
    def evaluate(outputs, seen):
        outputs = task.apply(Stages(outputs), seen, train=False, rngs=None)
        return outputs, task.loss(outputs, seen), task.predict(outputs, seen)

    outputs, (terms, logs), found = jax.tree.map(np.asarray, evaluate(make_outputs(), seen))
    assert not terms and logs.keys() == {"boxes_lost"}
    assert found["valid"].any(1).all() and np.isfinite(found["boxes"]).all()
    scores = np.asarray(outputs["regions"]) @ LOGITS
    best = (np.exp(scores) / np.exp(scores).sum(-1, keepdims=True))[..., 1:]
    best = np.where(np.asarray(outputs["region_mask"])[..., None], best, 0).max((1, 2))
    np.testing.assert_allclose(found["scores"].max(1), best, rtol=1e-4)


def test_anchors_in_the_padding_are_outside_the_image():
    batch = make_batch([])
    batch["original_size"][0] = 20, 30
    boxes = np.array([[0, 0, 20, 30], [0, 0, 20.5, 30], [2, -1, 9, 9], [21, 31, 25, 35]], np.float32)
    assert jax.jit(is_inside)(boxes, batch)[:2].tolist() == [
        [True, False, False, False],
        [True, True, False, True],
    ]


def test_thresholds_in_the_wrong_order_raise_a_user_error():
    with pytest.raises(UserError, match="config.task.background_iou=0.6 is above config.task.region_iou=0.5; lower it"):
        make_task(background_iou=0.6)
    with pytest.raises(UserError, match="config.task.negative_iou=0.8 is above config.task.positive_iou=0.7"):
        make_task(negative_iou=0.8)
