from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, detectors
from errors import UserError
from experiments.tasks import registry
from models.ops.anchors import pyramid
from tests.experiments.tasks.scenes import CLASSES, MOST, SIZE, area, iou, make_batch, overlap, random_batch
from tests.experiments.tasks.terms import summed

REGULAR = pyramid(SIZE, (8, 16), 2.0, 2, (0.5, 1.0, 2.0))  # 5x6 and 3x3 cells, 6 shapes
# Moved a little, so that no two anchors overlap an object equally. Otherwise rounding would decide which one is best.
LEVELS = tuple(
    (level + np.random.default_rng(0).uniform(-0.5, 0.5, level.shape)).astype(np.float32) for level in REGULAR
)
GEOMETRY = {"anchors": LEVELS}
ANCHORS = np.concatenate([level.reshape(-1, 4) for level in LEVELS])
COUNTS = tuple(level.size // 4 for level in LEVELS)


def make_task(**fields):
    config = common.get_config()
    detectors.use_light_retinanet(config)
    config.task.update(fields)
    return registry.make_task(config, CLASSES)


@cache
def make_loss(**fields):
    """Compile a function of (outputs, batch). It returns ((sum, weight), logs) and the gradients of the sum by output."""
    task = make_task(**fields)

    def loss(outputs, batch, levels):
        (total, weight), logs = summed(task.loss(outputs | {"anchors": levels}, batch))
        return total, ((total, weight), logs)

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(outputs, batch, levels=LEVELS):
        (_, result), gradients = compiled(split(outputs), batch, levels)
        result, gradients = jax.tree.map(np.asarray, (result, gradients))
        return result, {name: np.concatenate(levels, 1) for name, levels in gradients.items()}

    return run


@pytest.fixture(scope="module")
def loss():
    return make_loss()


def split(outputs):
    """Split outputs [B,A,...] by level."""
    return {name: tuple(np.split(rows, [COUNTS[0]], 1)) for name, rows in outputs.items()}


def random_outputs(generator, count):
    offsets = generator.standard_normal((count, len(ANCHORS), 4))
    logits = 2 * generator.standard_normal((count, len(ANCHORS), len(CLASSES)))
    return {"offsets": offsets.astype(np.float32), "logits": logits.astype(np.float32)}


def giou(a, b):
    union = area(a) + area(b) - overlap(a, b)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap(a, b) / union - (hull - union) / hull


def oracle(outputs, batch, *, positive_iou=0.5, negative_iou=0.4, low_quality=True, alpha=0.25, gamma=2.0, **fields):
    """Compute the loss by loops in float64.

    Return (classification, localisation, matched), and a mask [B,A] of counted anchors.
    """
    fields = dict(use_difficult=True, box_loss="smooth_l1", beta=0.0) | fields
    classified = located = matched = 0.0
    counted = np.zeros((len(batch["boxes"]), len(ANCHORS)), bool)
    for row, boxes in enumerate(batch["boxes"].astype(float)):
        if not batch["example_mask"][row]:
            continue
        objects = [i for i in range(MOST) if batch["valid"][row, i]]
        crowds = [i for i in objects if batch["crowd"][row, i]]
        learned = [
            i for i in objects if i not in crowds and (fields["use_difficult"] or not batch["difficult"][row, i])
        ]
        best_of = {i: max(iou(boxes[i], anchor) for anchor in ANCHORS) for i in learned}
        for a, anchor in enumerate(ANCHORS.astype(float)):
            ious = {i: iou(boxes[i], anchor) for i in learned}
            owner = max(ious, key=ious.get, default=None)
            best = ious.get(owner, 0)
            is_best = low_quality and any(ious[i] > best_of[i] - 1e-7 for i in learned)
            positive = best >= positive_iou or is_best
            others = [i for i in objects if i not in crowds + learned]
            background = best < negative_iou
            background &= not any(overlap(anchor, boxes[i]) >= 0.5 * area(anchor) for i in crowds)
            background &= not any(iou(anchor, boxes[i]) >= negative_iou for i in others)
            if not positive and not background:
                continue
            counted[row, a] = True
            for c, logit in enumerate(outputs["logits"][row, a].astype(float)):
                p = 1 / (1 + np.exp(-logit))
                if positive and c == batch["classes"][row, owner]:
                    classified -= alpha * (1 - p) ** gamma * np.log(p)
                else:
                    classified -= (1 - alpha) * p**gamma * np.log(1 - p)
            if not positive:
                continue
            matched += 1
            (y, x), (h, w) = (anchor[:2] + anchor[2:]) / 2, anchor[2:] - anchor[:2]
            offsets, (top, left, bottom, right) = outputs["offsets"][row, a].astype(float), boxes[owner]
            if fields["box_loss"] == "giou":
                middle = np.array([y + offsets[0] * h, x + offsets[1] * w])
                half = np.array([h, w]) * np.exp(offsets[2:]) / 2
                located += 1 - giou([*(middle - half), *(middle + half)], boxes[owner])
            else:
                target = ((top + bottom) / 2 - y) / h, ((left + right) / 2 - x) / w
                target = [*target, np.log((bottom - top) / h), np.log((right - left) / w)]
                for error in np.abs(offsets - target):
                    beta = fields["beta"]
                    located += error**2 / 2 / beta if error < beta else error - beta / 2
    return (classified, located, matched), counted


GIOU = dict(use_difficult=False, low_quality=False, box_loss="giou", gamma=1.5, alpha=0.4)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        GIOU,
        dict(beta=0.3, negative_iou=0.3, use_difficult=False),
    ],
)
def test_loss_equals_the_oracle(fields, loss):
    compiled = make_loss(**fields) if fields else loss
    for seed in range(4):
        generator = np.random.default_rng(seed)
        batch = random_batch(generator)
        outputs = random_outputs(generator, len(batch["boxes"]))
        (_, logs), gradients = compiled(outputs, batch)
        (classified, located, matched), counted = oracle(outputs, batch, **fields)
        assert matched > 5
        np.testing.assert_allclose(logs["classification"], (classified, matched), rtol=1e-4)
        np.testing.assert_allclose(logs["localisation"], (located, matched), rtol=1e-4)
        np.testing.assert_allclose(logs["matched"], (matched, 5))
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
        np.testing.assert_array_equal((np.abs(gradients["logits"]) > 0).all(-1), counted)
        assert (np.abs(gradients["offsets"]).max(-1) > 0).sum() == matched


def test_terms_are_divided_by_the_matched_anchors_or_at_least_one():
    task, outputs = make_task(box_weight=3.0), random_outputs(np.random.default_rng(0), 3)
    compiled = jax.jit(task.loss)
    for objects, matched in (([], 0), ([((2, 2, 18, 18), 1, "")], 3)):
        terms, logs = jax.tree.map(np.asarray, compiled(split(outputs) | GEOMETRY, make_batch(objects)))
        assert {name: (term.factor, term.floor) for name, term in terms.items()} == {
            "classification": (1.0, 1.0),
            "localisation": (3.0, 1.0),
        }
        (classified, located, count), _ = oracle(outputs, make_batch(objects))
        assert bool(count) == bool(matched)
        for name, total in (("classification", classified), ("localisation", located)):
            np.testing.assert_allclose(terms[name].value(), total / max(count, 1), rtol=1e-4)
        np.testing.assert_allclose(logs["matched"].value(), count / 3, rtol=1e-6)


def test_values_in_padding_have_no_effect(loss):
    generator = np.random.default_rng(1)
    batch = random_batch(generator)
    outputs = random_outputs(generator, 6)
    expected, gradients = loss(outputs, batch)
    outputs["logits"][4], outputs["offsets"][4], batch["boxes"][4] = np.nan, np.inf, 7.0
    found, others = loss(outputs, batch)
    jax.tree.map(np.testing.assert_array_equal, (expected, gradients), (found, others))


def test_losses_of_two_half_batches_sum_to_the_whole(loss):
    generator = np.random.default_rng(7)
    batch = random_batch(generator)
    outputs = random_outputs(generator, 6)
    (_, whole), _ = loss(outputs, batch)
    halves = [jax.tree.map(lambda rows, half=half: rows[half], (outputs, batch)) for half in (slice(3), slice(3, 6))]
    halves = [loss(*half)[0][1] for half in halves]
    for name, expected in whole.items():
        np.testing.assert_allclose(expected, np.add(halves[0][name], halves[1][name]), rtol=1e-5)


def test_mirrored_image_has_the_same_loss(loss):
    generator = np.random.default_rng(2)
    batch = random_batch(generator)
    outputs = random_outputs(generator, 6)
    expected, _ = loss(outputs, batch)

    def mirror(boxes):
        top, left, bottom, right = np.moveaxis(boxes, -1, 0)
        return np.stack([top, SIZE[1] - right, bottom, SIZE[1] - left], -1)

    mirrored = {}
    for name, levels in split(outputs).items():
        levels = [rows.reshape(6, *own.shape[:3], -1)[:, :, ::-1] for rows, own in zip(levels, LEVELS, strict=True)]
        mirrored[name] = np.concatenate([rows.reshape(6, -1, rows.shape[-1]) for rows in levels], 1)
    mirrored["offsets"][..., 1] *= -1
    levels = tuple(mirror(level)[:, ::-1] for level in LEVELS)
    found, _ = loss(mirrored, batch | {"boxes": mirror(batch["boxes"])}, levels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, found)


@pytest.mark.parametrize("fields", [dict(), GIOU])
def test_unusual_boxes_have_finite_losses(fields, loss):
    """The boxes have no area, are tiny, as large as the image, or larger."""
    compiled = make_loss(**fields) if fields else loss
    boxes = [(7, 7, 7, 7), (7, 7, 7.001, 40), (0, 0, *SIZE), (-90, -90, 200, 200), (12, 12, 12.5, 12.5)]
    batch = make_batch(*([(box, 1, "")] for box in boxes), [(boxes[2], 0, "c")])
    (_, logs), gradients = compiled(random_outputs(np.random.default_rng(0), 6), batch)
    assert all(np.isfinite(values).all() for values in (*logs.values(), *gradients.values()))
    assert logs["matched"][0] > 0 and not gradients["logits"][5, COUNTS[0] :].all()


def test_decoded_targets_equal_the_objects():
    task, batch = make_task(), random_batch(np.random.default_rng(3))
    targets = jax.tree.map(np.asarray, jax.jit(lambda batch: task.targets(ANCHORS, batch))(batch))
    sides = ANCHORS[:, 2:] - ANCHORS[:, :2]
    middles = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
    shifts = ((targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2 - middles) / sides
    scales = np.log(np.maximum(targets.boxes[..., 2:] - targets.boxes[..., :2], 1e-3) / sides)
    outputs = {"offsets": np.concatenate([shifts, scales], -1), "logits": 50.0 * np.eye(3)[targets.classes] - 25}
    boxes, scores = jax.jit(lambda outputs: task.decode(outputs | GEOMETRY, SIZE))(split(outputs))
    assert [x.shape for x in (*boxes, *scores)] == [(6, n, k) for k in (4, 3) for n in COUNTS]
    boxes, scores = (np.concatenate(levels, 1) for levels in (boxes, scores))
    np.testing.assert_allclose(scores[targets.positive], np.eye(3)[targets.classes[targets.positive]], atol=1e-6)
    np.testing.assert_allclose(boxes[targets.positive], targets.boxes[targets.positive], atol=1e-3)
    seen = {
        (row, np.abs(batch["boxes"][row] - boxes[row, a]).max(-1).argmin())
        for row, a in zip(*np.nonzero(targets.positive), strict=True)
    }
    assert seen == set(zip(*np.nonzero(np.asarray(jax.jit(task.learnable)(batch))), strict=True))


def test_predictions_contain_the_best_boxes_of_all_levels():
    """One box of each level has a high score. Another overlaps the first level's box and stays only in another class."""
    task = make_task(score_threshold=0.5, nms_iou=0.5, nms_candidates=5, max_detections=4)
    outputs = {"offsets": np.zeros((3, len(ANCHORS), 4), np.float32)}
    outputs["logits"] = np.full((3, len(ANCHORS), 3), -9.0, np.float32)
    near = 40 + next(a for a in range(1, 9) if iou(ANCHORS[40], ANCHORS[40 + a]) > 0.5)
    for a, c, logit in ((40, 1, 3.0), (near, 1, 2.0), (near, 2, 1.0), (COUNTS[0] + 7, 0, 4.0)):
        outputs["logits"][1, a, c] = logit
    found = jax.jit(task.predict)(split(outputs) | GEOMETRY, make_batch([], [], []))
    assert found["valid"].tolist() == [[False] * 4, [True] * 3 + [False], [False] * 4]
    assert found["classes"][1].tolist() == [0, 1, 2, 0]
    expected = np.clip(ANCHORS[[COUNTS[0] + 7, 40, near]], 0, np.tile(SIZE, 2))  # clipped to the image
    np.testing.assert_allclose(found["boxes"][1, :3], expected, atol=1e-4)
    np.testing.assert_allclose(found["scores"][1, :3], 1 / (1 + np.exp([-4.0, -3.0, -1.0])), rtol=1e-5)


def test_matchable_boxes_overlap_an_anchor_enough():
    generator = np.random.default_rng(0)
    corner, side = generator.uniform(-9, 44, (150, 2)), generator.uniform(0.5, 40, (150, 2))
    boxes = np.concatenate([corner, corner + side], -1)
    expected = [max(iou(box, anchor) for level in REGULAR for anchor in level.reshape(-1, 4)) for box in boxes]
    for threshold in (0.5, 0.7):
        found = make_task(positive_iou=threshold).matchable({"anchors": REGULAR}, boxes, SIZE)
        np.testing.assert_array_equal(found, np.array(expected) >= threshold)
        assert 0 < found.sum() < len(found)
    assert make_task().matchable(GEOMETRY, np.zeros((0, 4)), SIZE).shape == (0,)


def test_thresholds_in_the_wrong_order_raise_a_user_error():
    with pytest.raises(UserError, match=r"^config\.task\.negative_iou=0\.6 is above config\.task\.positive_iou=0\.5"):
        make_task(negative_iou=0.6)


def test_bfloat16_outputs_have_a_finite_loss(loss):
    batch = random_batch(np.random.default_rng(5))
    outputs = random_outputs(np.random.default_rng(5), 6)
    outputs["logits"] *= 1e4
    outputs["offsets"] *= 1e4
    narrow = {name: np.asarray(jnp.asarray(rows, jnp.bfloat16).astype(jnp.float32)) for name, rows in outputs.items()}
    (_, logs), gradients = loss(narrow, batch)
    assert all(np.isfinite(values).all() for values in (*logs.values(), *gradients.values()))
