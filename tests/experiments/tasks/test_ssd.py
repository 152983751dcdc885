import importlib

import jax
import numpy as np
import pytest
from flax import nnx

from configs import common, detectors
from experiments.tasks import registry
from models.ops.anchors import default_boxes
from tests.experiments.tasks.overfitting import OBJECTS, overfit
from tests.experiments.tasks.scenes import CLASSES, MOST, SIZE, area, iou, make_batch, overlap, random_batch
from tests.experiments.tasks.terms import summed

ANCHORS = default_boxes(SIZE, ((4, 5), (2, 2)), (0.3, 0.5, 0.8), ((2.0,), ()))  # 80 and 8 boxes


def make_task(**fields):
    config = common.get_config()
    detectors.use_light_ssd(config)
    config.task.update(fields)
    return registry.make_task(config, CLASSES)


GEOMETRY = {"anchors": ANCHORS}


def make_loss(**fields):
    """Compile a function of (outputs, batch). It returns ((sum, weight), logs) and the gradients of the sum by output."""
    task = make_task(**fields)

    def loss(outputs, batch):
        (total, weight), logs = summed(task.loss(outputs | GEOMETRY, batch))
        return total, ((total, weight), logs)

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(outputs, batch):
        (_, result), gradients = compiled(outputs, batch)
        return jax.tree.map(np.asarray, (result, gradients))

    return run


@pytest.fixture(scope="module")
def loss():
    return make_loss()


def random_outputs(generator, count):
    offsets = 2 * generator.standard_normal((count, len(ANCHORS), 4))
    logits = 2 * generator.standard_normal((count, len(ANCHORS), len(CLASSES) + 1))
    return {"offsets": offsets.astype(np.float32), "logits": logits.astype(np.float32)}


def oracle(outputs, batch, *, match_iou=0.5, negatives_per_positive=3.0, localisation_weight=1.0, use_difficult=True):
    """Compute the loss by loops in float64.

    Return (sum, matched, classification, localisation), and a mask [B,A] of counted background.
    """
    classified = located = matched = 0.0
    counted = np.zeros((len(batch["boxes"]), len(ANCHORS)), bool)
    for row, boxes in enumerate(batch["boxes"].astype(float)):
        objects = [i for i in range(MOST) if batch["valid"][row, i]]
        crowds = [i for i in objects if batch["crowd"][row, i]]
        learned = [
            i
            for i in objects
            if i not in crowds and batch["example_mask"][row] and (use_difficult or not batch["difficult"][row, i])
        ]
        owner, free = {}, list(learned)
        while free:  # every object gets its best box, in order of falling overlap
            _, i, a = max(
                (iou(boxes[i], ANCHORS[a]), i, a) for i in free for a in range(len(ANCHORS)) if a not in owner
            )
            owner[a] = i
            free.remove(i)
        for a in range(len(ANCHORS)):
            best = max(((iou(boxes[i], ANCHORS[a]), i) for i in learned), default=(0, 0))
            if a not in owner and best[0] >= match_iou:
                owner[a] = best[1]
        logits = outputs["logits"][row].astype(float)
        cost = np.log(np.exp(logits).sum(-1, keepdims=True)) - logits
        for a, i in owner.items():
            classified += cost[a, batch["classes"][row, i] + 1]
            (y, x), (h, w) = (ANCHORS[a, :2] + ANCHORS[a, 2:]) / 2, ANCHORS[a, 2:] - ANCHORS[a, :2]
            (top, left), (bottom, right) = boxes[i, :2], boxes[i, 2:]
            target = [
                ((top + bottom) / 2 - y) / h / 0.1,
                ((left + right) / 2 - x) / w / 0.1,
                np.log((bottom - top) / h) / 0.2,
                np.log((right - left) / w) / 0.2,
            ]
            for error in np.abs(outputs["offsets"][row, a] - target):
                located += error**2 / 2 if error < 1 else error - 0.5
        background = [
            a
            for a in range(len(ANCHORS))
            if a not in owner
            and not any(overlap(ANCHORS[a], boxes[i]) >= 0.5 * area(ANCHORS[a]) for i in crowds)
            and not any(iou(ANCHORS[a], boxes[i]) >= match_iou for i in objects if i not in crowds + learned)
        ]
        hardest = sorted(background, key=lambda a: -cost[a, 0])[: int(negatives_per_positive * len(owner))]
        counted[row, hardest] = True
        classified += cost[hardest, 0].sum()
        matched += len(owner)
    return (classified + localisation_weight * located, matched, classified, located), counted


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict(use_difficult=False, negatives_per_positive=1.5, localisation_weight=0.25, match_iou=0.4),
    ],
)
def test_loss_equals_the_oracle(fields, loss):
    compiled = make_loss(**fields) if fields else loss
    for seed in range(6):
        generator = np.random.default_rng(seed)
        batch = random_batch(generator)
        outputs = random_outputs(generator, len(batch["boxes"]))
        ((total, weight), logs), gradients = compiled(outputs, batch)
        expected, background = oracle(outputs, batch, **fields)
        assert weight == expected[1] > 5
        np.testing.assert_allclose(total, expected[0], rtol=1e-4)
        images = 5
        for name, (part, count) in {
            "classification": (expected[2], expected[1]),
            "localisation": (expected[3], expected[1]),
            "matched": (expected[1], images),
            "boxes_lost": (3, images),
        }.items():
            np.testing.assert_allclose(logs[name], (part, count), rtol=1e-4)
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
        # Counted background has a gradient on its logits but not on its offsets. Objects have both.
        moved = {name: np.abs(gradient).max(-1) > 0 for name, gradient in gradients.items()}
        np.testing.assert_array_equal(moved["logits"] & ~moved["offsets"], background)
        assert moved["offsets"].sum() == weight
        assert not moved["logits"][[1, 3, 4]].any()  # no object, only a crowd, a padded row


def test_loss_of_one_object_equals_the_hand_computed_value(loss):
    """Equal logits cost log 4 for each matched box and its three negatives. Then two offsets have errors of 0.5 and 3."""
    batch = make_batch([(ANCHORS[40], 1, "")], [], [])
    outputs = {name: np.zeros_like(values) for name, values in random_outputs(np.random.default_rng(0), 3).items()}
    matched = sum(iou(anchor, ANCHORS[40]) >= 0.5 for anchor in ANCHORS)
    ((right, weight), logs), _ = loss(outputs, batch)
    assert weight == matched
    np.testing.assert_allclose(logs["classification"][0], 4 * matched * np.log(4), rtol=1e-5)
    outputs["offsets"][0, 40] = (0.5, 0, -3.0, 0)
    ((wrong, _), _), _ = loss(outputs, batch)
    np.testing.assert_allclose(wrong - right, 0.5 * 0.5**2 + 3.0 - 0.5, rtol=1e-4)


def test_best_box_matches_an_object_below_the_threshold(loss):
    batch = make_batch([((1, 1, 4, 4), 2, "")])
    ((_, weight), _), gradients = loss(random_outputs(np.random.default_rng(0), 3), batch)
    best = max(range(len(ANCHORS)), key=lambda a: iou(ANCHORS[a], (1, 1, 4, 4)))
    assert iou(ANCHORS[best], (1, 1, 4, 4)) < 0.3 and weight == 1
    assert np.flatnonzero(np.abs(gradients["offsets"][0]).sum(-1)).tolist() == [best]


def test_batch_without_objects_has_no_gradient(loss):
    batch = make_batch([], [((0, 0, 20, 20), 0, "c")])
    ((total, weight), logs), gradients = loss(random_outputs(np.random.default_rng(0), 3), batch)
    assert total == weight == 0
    assert all(np.array_equal(gradient, np.zeros_like(gradient)) for gradient in gradients.values())
    assert all(np.isfinite(value).all() for value in logs.values())


def test_losses_of_two_half_batches_sum_to_the_whole(loss):
    generator = np.random.default_rng(7)
    batch = random_batch(generator)
    outputs = random_outputs(generator, 6)
    whole, _ = loss(outputs, batch)
    halves = [jax.tree.map(lambda rows, half=half: rows[half], (outputs, batch)) for half in (slice(3), slice(3, 6))]
    halves = [loss(*half)[0] for half in halves]
    for expected, *parts in zip(*map(jax.tree.leaves, (whole, *halves)), strict=True):
        np.testing.assert_allclose(expected, sum(parts), rtol=1e-5)


def test_decoded_targets_equal_the_objects():
    task, batch = make_task(), random_batch(np.random.default_rng(3))
    targets = jax.tree.map(np.asarray, jax.jit(lambda batch: task.targets(ANCHORS, batch))(batch))
    logits = 50.0 * np.eye(4, dtype=np.float32)[targets.classes]
    decode = jax.jit(lambda outputs: task.decode(outputs | GEOMETRY, SIZE))
    boxes, scores = map(np.asarray, decode({"offsets": targets.offsets, "logits": logits}))
    learnable = np.asarray(jax.jit(task.learnable)(batch))
    assert scores.shape == (6, len(ANCHORS), 3)
    seen = set()
    for row, a in zip(*np.nonzero(targets.positive), strict=True):
        distances = np.abs(batch["boxes"][row] - boxes[row, a]).max(-1)
        assert distances.min() < 1e-3
        index = batch["classes"][row, distances.argmin()]
        seen.add((row, distances.argmin()))
        np.testing.assert_allclose(scores[row, a], np.eye(3)[index], atol=1e-6)
    assert seen == set(zip(*np.nonzero(learnable), strict=True))
    np.testing.assert_allclose(scores[~targets.positive], 0, atol=1e-6)


def test_matchable_boxes_overlap_a_default_box_enough():
    generator = np.random.default_rng(0)
    corner, side = generator.uniform(-5, 40, (150, 2)), generator.uniform(0.5, 40, (150, 2))
    boxes = np.concatenate([corner, corner + side], -1)
    expected = [max(iou(box, anchor) for anchor in ANCHORS) for box in boxes]
    for threshold in (0.5, 0.7):
        found = make_task(match_iou=threshold).matchable(GEOMETRY, boxes, SIZE)
        np.testing.assert_array_equal(found, np.array(expected) >= threshold)
        assert 0 < found.sum() < len(found)
    assert make_task().matchable(GEOMETRY, np.zeros((0, 4)), SIZE).shape == (0,)


@pytest.fixture(scope="module")
def overfitted():
    config = importlib.import_module("configs.ssd300_voc").get_config("debug")
    config.model.backbone.norm = config.model.norm = "batch"
    return overfit(config, steps=80)


def test_every_parameter_has_a_gradient(overfitted):
    for name, gradient in overfitted.first.items():
        assert np.isfinite(gradient).all(), name
        # A bias before batch normalisation has no effect.
        assert np.any(np.abs(gradient) > 1e-6) or name.endswith("conv/bias"), name


def test_two_images_are_overfitted(overfitted):
    assert overfitted.losses[-1] < 0.1 * overfitted.losses[0]
    task, batch = overfitted.task, overfitted.batch
    outputs = nnx.jit(lambda model: task.apply(model, batch, train=False, rngs=None))(overfitted.model)
    prediction = jax.tree.map(np.asarray, jax.jit(task.predict)(outputs, batch))
    for row, objects in enumerate(OBJECTS):
        certain = prediction["valid"][row] & (prediction["scores"][row] > 0.5)
        found = sorted(
            zip(prediction["classes"][row][certain], prediction["boxes"][row][certain].tolist(), strict=True)
        )
        truth = sorted((index, box) for box, index in objects)
        assert [index for index, _ in found] == [index for index, _ in truth]
        assert all(iou(a, b) > 0.8 for (_, a), (_, b) in zip(found, truth, strict=True))
