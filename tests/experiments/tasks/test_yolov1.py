from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import common, detectors
from experiments.tasks import yolov1
from experiments.tasks.base import total_loss
from experiments.tasks.registry import make_task
from experiments.tasks.yolov1 import PARTS
from models import registry
from models.ops.anchors import cells
from tests.experiments.tasks.terms import summed

CLASSES = ("a", "b", "c")
GRID, SIZE, K, B, M = (2, 3), (40, 66), 2, 4, 6
LAMBDAS = dict(lambda_coord=5.0, lambda_noobj=0.5)


GEOMETRY = {"cells": cells(SIZE, GRID)}


def make(**fields):
    config = common.get_config()
    detectors.use_light_yolov1(config)
    config.task.update(fields)
    return make_task(config, CLASSES)


def make_batch(boxes, classes, size=SIZE, **fields):
    """Make a batch from boxes [B,M,4] and classes [B,M]. Objects are valid by default."""
    boxes, classes = np.asarray(boxes, np.float32), np.asarray(classes, np.int32)
    flags = dict(valid=np.ones(classes.shape, bool)) | {name: np.zeros(classes.shape, bool) for name in FLAGS}
    rows = dict(example_mask=np.ones(len(boxes), bool), boxes_lost=np.zeros(len(boxes), np.int32))
    rows |= dict(original_size=np.full((len(boxes), 2), size, np.int32))
    rows |= dict(to_original=np.tile(np.eye(2, 3, dtype=np.float32), (len(boxes), 1, 1)))
    return dict(image=np.zeros((len(boxes), *size, 3), np.uint8), boxes=boxes, classes=classes, **flags | rows | fields)


FLAGS = ("crowd", "difficult")


@partial(jax.jit, static_argnames="use_difficult")
def loss_of(outputs, batch, use_difficult=False):
    geometry = {"cells": cells(batch["image"].shape[1:3], outputs["confidence"].shape[1:3])}
    return summed(make(use_difficult=use_difficult, **LAMBDAS).loss(outputs | geometry, batch))


@jax.jit
def gradient_of(outputs, batch):
    return jax.grad(lambda outputs: loss_of(outputs, batch)[0][0])(outputs)


def overlap(a, b):
    height, width = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0.0) for i in (0, 1))
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - height * width
    return height * width / union if union > 1e-9 else 0.0


def truth_at(box, row, column):
    """Return (y, x, square root of h, square root of w) of a box for the cell at a row and a column."""
    y = (box[0] + box[2]) / 2 / SIZE[0] * GRID[0] - row
    x = (box[1] + box[3]) / 2 / SIZE[1] * GRID[1] - column
    return np.array([y, x, ((box[2] - box[0]) / SIZE[0]) ** 0.5, ((box[3] - box[1]) / SIZE[1]) ** 0.5])


def box_at(coordinates, row, column):
    y, x, h, w = coordinates
    middle = np.array([(row + y) / GRID[0] * SIZE[0], (column + x) / GRID[1] * SIZE[1]])
    half = np.array([max(h, 0) ** 2 * SIZE[0], max(w, 0) ** 2 * SIZE[1]]) / 2
    return np.concatenate([middle - half, middle + half])


def oracle(outputs, batch):
    """Compute equation 3 by loops. Return the sum of each part, and `unmatched`."""
    sums = dict.fromkeys((*PARTS, "unmatched"), 0.0)
    for b in np.flatnonzero(batch["example_mask"]):
        owner, left = {}, set()
        for m in np.flatnonzero(batch["valid"][b]):
            box = batch["boxes"][b, m].astype(float)
            y, x = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            cell = min(int(y * GRID[0] / SIZE[0]), GRID[0] - 1), min(int(x * GRID[1] / SIZE[1]), GRID[1] - 1)
            if batch["crowd"][b, m]:
                for row, column in np.ndindex(GRID):
                    y, x = (row + 0.5) * SIZE[0] / GRID[0], (column + 0.5) * SIZE[1] / GRID[1]
                    if box[0] <= y < box[2] and box[1] <= x < box[3]:
                        left.add((row, column))
            elif batch["difficult"][b, m]:
                left.add(cell)
            elif cell in owner:
                sums["unmatched"] += 1
            else:
                owner[cell] = m
        for row, column in np.ndindex(GRID):
            chosen = None
            if (row, column) in owner:
                m = owner[row, column]
                box = batch["boxes"][b, m].astype(float)
                truth, order = truth_at(box, row, column), []
                for k in range(K):
                    predicted = outputs["boxes"][b, row, column, k].astype(float)
                    distance = ((predicted - truth) ** 2).sum()
                    order.append((-overlap(box_at(predicted, row, column), box), distance, k))
                minus_iou, _, chosen = min(order)
                errors = (outputs["boxes"][b, row, column, chosen] - truth) ** 2
                sums["coordinates"] += errors[:2].sum()
                sums["sizes"] += errors[2:].sum()
                sums["confidence"] += (outputs["confidence"][b, row, column, chosen] + minus_iou) ** 2
                one_hot = np.eye(len(CLASSES))[batch["classes"][b, m]]
                sums["classes"] += ((outputs["classes"][b, row, column] - one_hot) ** 2).sum()
            for k in range(K):
                if k != chosen and (row, column) not in left:
                    sums["no_object"] += outputs["confidence"][b, row, column, k] ** 2
    return sums


def draw(seed):
    """Draw a batch with shared cells, crowds, difficult objects and padding, and outputs near the ground truth."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 1, (B, M, 2)) * SIZE
    half = rng.uniform(0.02, 0.4, (B, M, 2)) * SIZE
    boxes = np.concatenate([centre - half, centre + half], -1).clip(0, [*SIZE, *SIZE]).astype(np.float32)
    valid = rng.random((B, M)) < rng.uniform(0, 1, (B, 1))  # some images have no object
    boxes = np.where(valid[..., None], boxes, 0)
    batch = make_batch(
        boxes,
        rng.integers(0, len(CLASSES), (B, M)),
        valid=valid,
        crowd=valid & (rng.random((B, M)) < 0.15),
        difficult=valid & (rng.random((B, M)) < 0.2),
        example_mask=rng.random(B) < 0.8,
        boxes_lost=rng.integers(0, 5, B).astype(np.int32),
    )
    outputs = {
        "boxes": rng.normal(0.3, 0.5, (B, *GRID, K, 4)),
        "confidence": rng.normal(size=(B, *GRID, K)),
        "classes": rng.normal(size=(B, *GRID, len(CLASSES))),
    }
    for b, row, column in np.ndindex(B, *GRID):
        inside = [box for box in boxes[b] if np.all((truth := truth_at(box, row, column)[:2]) >= 0) and max(truth) < 1]
        if inside:
            near = truth_at(inside[0], row, column) + rng.normal(0, 0.1, (K, 4))
            outputs["boxes"][b, row, column] = near
    return {name: values.astype(np.float32) for name, values in outputs.items()}, batch


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_loss_equals_equation_3(seed):
    outputs, batch = draw(seed)
    (total, weight), logs = loss_of(outputs, batch)
    expected, mask = oracle(outputs, batch), batch["example_mask"]
    assert float(weight) == mask.sum()
    assert logs.keys() == {*PARTS, "unmatched", "boxes_lost"}
    for name, value in expected.items():
        assert float(logs[name][0]) == pytest.approx(value, rel=1e-4, abs=1e-4), name
        assert float(logs[name][1]) == mask.sum()
    assert float(logs["boxes_lost"][0]) == batch["boxes_lost"][mask].sum()
    whole = 5 * (expected["coordinates"] + expected["sizes"]) + expected["confidence"]
    whole += 0.5 * expected["no_object"] + expected["classes"]
    assert float(total) == pytest.approx(whole, rel=1e-4, abs=1e-4)


HAND = {  # an image of 100x100; in cell (0, 0) an object of 20x40 around (20, 40)
    "boxes": np.zeros((1, 2, 2, 2, 4)),
    "confidence": np.full((1, 2, 2, 2), 0.1),
    "classes": np.full((1, 2, 2, 3), 9.0),
}
HAND["boxes"][0, 0, 0, 1] = [0.4, 0.8, 0.2**0.5, 0.2**0.5]  # 20x20 around the same centre: IoU 0.5
HAND["confidence"][0, 0, 0] = [0.3, 0.9]
HAND["classes"][0, 0, 0] = [0.25, 0.5, 0.0]


def hand_batch(valid=(False, True, False), difficult=False):
    """Return a batch with the middle one of three objects. The last one has the same cell."""
    boxes = [[[0, 0, 8, 8], [10, 20, 30, 60], [12, 22, 20, 50]]]
    flags = dict(valid=np.array([valid]), difficult=np.array([[False, difficult, False]]))
    return make_batch(boxes, [[0, 1, 2]], (100, 100), **flags)


def test_loss_of_one_object_equals_the_hand_computed_value():
    (total, weight), logs = loss_of(HAND, hand_batch())
    sizes = (0.4**0.5 - 0.2**0.5) ** 2
    parts = {"coordinates": 0, "sizes": sizes, "confidence": 0.4**2, "no_object": 0.3**2 + 6 * 0.1**2}
    parts["classes"] = 0.25**2 + 0.5**2
    for name, value in parts.items():
        assert float(logs[name][0]) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert float(total) == pytest.approx(5 * sizes + 0.16 + 0.5 * 0.15 + 0.3125, rel=1e-5)
    assert float(weight) == 1.0


def test_difficult_objects_are_learned_only_with_use_difficult():
    batch = hand_batch(difficult=True)
    assert float(loss_of(HAND, batch, use_difficult=True)[1]["classes"][0]) == pytest.approx(0.3125)
    _, logs = loss_of(HAND, batch, use_difficult=False)
    assert float(logs["classes"][0]) == 0
    assert float(logs["no_object"][0]) == pytest.approx(6 * 0.1**2)  # it is not background either


def test_first_object_keeps_the_cell():
    (total, _), logs = loss_of(HAND, hand_batch((False, True, True)))
    assert float(total) == pytest.approx(float(loss_of(HAND, hand_batch())[0][0]), rel=1e-6)
    assert float(logs["unmatched"][0]) == 1


def test_centres_on_borders_belong_to_one_cell():
    boxes = np.array([[-1, -1, 1, 1], [19, 21, 21, 23], [19, 43, 21, 45], [39, 65, 41, 67], [19.9, 21.9, 20, 22]])
    np.testing.assert_array_equal(yolov1.cell_of(boxes, GRID, SIZE), [0, 4, 5, 5, 0])


@jax.jit
def choose(boxes, batch):
    cells = yolov1.fill_cells(batch, batch["valid"], (2, 2), (100, 100))
    return yolov1.find_responsible(boxes, cells, (100, 100))


def responsible(first, second):
    """Return which of two boxes (y, x, root of h, root of w) of cell (0, 0) is responsible for the object, and its IoU."""
    boxes = np.zeros((1, 2, 2, 2, 4), np.float32)
    boxes[0, 0, 0] = [first, second]
    chosen, iou = choose(boxes, hand_batch())
    assert chosen.sum() == chosen[0, 0, 0].sum() == 1
    return int(chosen[0, 0, 0].argmax()), float(iou[0, 0, 0])


def test_box_with_the_highest_iou_is_responsible():
    # The second box has nearer coordinates, but it is too thin to overlap much.
    assert responsible([0.4, 0.8, 0.9, 0.9], [0.4, 0.8, 0.1, 0.6]) == (0, pytest.approx(800 / 6561, rel=1e-4))
    assert responsible([0.4, 0.8, 0.1, 0.6], [0.4, 0.8, 0.9, 0.9])[0] == 1


def test_nearest_box_is_responsible_if_no_box_overlaps():
    assert responsible([0.4, 0.8, 0.0, 0.0], [0.4, 0.8, 0.2, 0.0]) == (1, 0.0)
    assert responsible([0.4, 0.8, -0.1, 0.6], [0.4, 0.8, -0.5, 0.6]) == (0, 0.0)  # a negative size counts as 0
    assert responsible([0.4, 0.8, 0.0, 0.0], [0.4, 0.8, 0.0, 0.0]) == (0, 0.0)
    assert responsible([0.4, 0.8, 0.3, 0.3], [0.4, 0.8, 0.3, 0.3])[0] == 0


def test_gradients_equal_those_of_squares_with_constant_targets():
    gradient = gradient_of({name: values.astype(np.float32) for name, values in HAND.items()}, hand_batch())
    boxes = np.zeros((1, 2, 2, 2, 4))
    boxes[0, 0, 0, 1, 3] = 5 * 2 * (0.2**0.5 - 0.4**0.5)
    np.testing.assert_allclose(gradient["boxes"], boxes, atol=1e-5)
    confidence = 0.5 * 2 * HAND["confidence"]
    confidence[0, 0, 0, 1] = 2 * (0.9 - 0.5)
    np.testing.assert_allclose(gradient["confidence"], confidence, rtol=1e-5)
    classes = np.zeros((1, 2, 2, 3))
    classes[0, 0, 0] = [0.5, -1.0, 0.0]
    np.testing.assert_allclose(gradient["classes"], classes, rtol=1e-5)


def test_loss_and_gradients_are_finite_without_objects():
    outputs, batch = draw(0)
    batch |= dict(valid=np.zeros((B, M), bool), boxes=np.zeros((B, M, 4), np.float32), example_mask=np.ones(B, bool))
    batch |= {name: np.zeros((B, M), bool) for name in FLAGS}
    total = loss_of(outputs, batch)[0][0]
    assert float(total) == pytest.approx(0.5 * (outputs["confidence"] ** 2).sum(), rel=1e-5)
    gradient = gradient_of(outputs, batch)
    np.testing.assert_allclose(gradient["confidence"], outputs["confidence"], rtol=1e-5)
    assert not gradient["boxes"].any() and not gradient["classes"].any()


def test_padding_has_no_effect():
    outputs, batch = draw(1)
    batch["example_mask"] = np.array([True, False, True, False])
    short = {name: values[::2] for name, values in batch.items()}
    expected = loss_of({name: values[::2] for name, values in outputs.items()}, short)
    for values in outputs.values():
        values[1::2] = np.nan
    made, gradient = loss_of(outputs, batch), gradient_of(outputs, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), made, expected)
    for values in gradient.values():
        assert np.isfinite(values).all() and values[::2].any() and not values[1::2].any()


def test_losses_of_two_half_batches_sum_to_the_whole():
    outputs, batch = draw(2)
    whole = loss_of(outputs, batch)
    halves = [
        loss_of(*({name: values[rows] for name, values in arrays.items()} for arrays in (outputs, batch)))
        for rows in (slice(None, None, 2), slice(1, None, 2))
    ]
    added = jax.tree.map(jnp.add, *halves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), added, whole)


def test_decode_inverts_encode():
    rng = np.random.default_rng(3)
    corner = np.stack(np.meshgrid(np.arange(2) * 20, np.arange(3) * 22, indexing="ij"), -1)
    centre, half = corner + rng.uniform(0, 1, (5, 2, 3, 2)) * [20, 22], rng.uniform(0, 1, (5, 2, 3, 2)) * SIZE
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    coordinates = np.asarray(jax.jit(lambda boxes: yolov1.encode(boxes, SIZE))(boxes))
    assert np.all((coordinates[..., :2] >= 0) & (coordinates[..., :2] <= 1))
    for cell in np.ndindex(2, 3):
        np.testing.assert_allclose(coordinates[0, *cell], truth_at(boxes[0, *cell], *cell), rtol=1e-4, atol=1e-5)
    decoded = jax.jit(lambda coordinates: yolov1.decode(coordinates, SIZE))(coordinates[..., None, :])
    np.testing.assert_allclose(decoded[..., 0, :], boxes, rtol=1e-4, atol=1e-3)


def test_score_is_confidence_times_probability():
    outputs = {name: values.copy() for name, values in draw(4)[0].items()}
    task = make()
    boxes, scores = map(np.asarray, jax.jit(lambda outputs: task.decode(outputs, SIZE))(outputs))
    assert boxes.shape == (B, 12, 4) and scores.shape == (B, 12, 3)
    assert np.any((outputs["confidence"] < 0)[..., None] & (outputs["classes"] < 0)[..., None, :])
    for number, (row, column, k) in enumerate(np.ndindex(*GRID, K)):
        cell = (1, row, column)
        np.testing.assert_allclose(
            boxes[1, number], box_at(outputs["boxes"][*cell, k], row, column), rtol=1e-3, atol=1e-3
        )
        expected = max(outputs["confidence"][*cell, k], 0) * outputs["classes"][*cell].clip(0)
        np.testing.assert_allclose(scores[1, number], expected, rtol=1e-5)
    assert np.all(boxes[..., :2] <= boxes[..., 2:])


def test_matchable_objects_keep_their_cell():
    task = make()
    for seed in range(5):
        outputs, batch = draw(seed)
        batch |= {name: np.zeros((B, M), bool) for name in FLAGS} | dict(example_mask=np.ones(B, bool))
        found = [
            task.matchable(GEOMETRY, boxes[valid].astype(float), SIZE)
            for boxes, valid in zip(batch["boxes"], batch["valid"], strict=True)
        ]
        assert [row.shape for row in found] == [(count,) for count in batch["valid"].sum(1)]
        assert sum((~row).sum() for row in found) == loss_of(outputs, batch)[1]["unmatched"][0]
    crowded = np.array([[0, 0, 10, 10], [30, 30, 38, 38], [1, 1, 9, 9], [20, 50, 30, 60]], float)
    np.testing.assert_array_equal(task.matchable(GEOMETRY, crowded, SIZE), [True, True, False, True])
    assert "\n" not in task.advice


@pytest.fixture(scope="module")
def learned():
    """Return (losses, predictions, batch) of a small network trained on two images of three objects."""
    rng = np.random.default_rng(0)
    boxes = np.array([[[6, 4, 30, 40], [36, 30, 60, 56], [0] * 4], [[20, 8, 44, 28], [0] * 4, [0] * 4]])
    batch = make_batch(boxes, [[0, 1, 0], [2, 0, 0]], (64, 64), valid=boxes.any(-1))
    batch["image"][:] = rng.integers(100, 130, batch["image"].shape)
    for row, index in zip(*np.nonzero(batch["valid"]), strict=True):
        top, left, bottom, right = boxes[row, index]
        batch["image"][row, top:bottom, left:right, batch["classes"][row, index]] += 100
    fields = dict(layers=9, width=0.125, depth=0.3, stride=16, grid=0, boxes=2, head="convolution", connected=32)
    fields |= dict(dropout=0.0, norm="group", momentum=0.9, dtype="float32")
    model = registry.build("yolov1", rngs=nnx.Rngs(0), num_classes=3, **fields)
    task, (graphdef, params) = make(**LAMBDAS, max_detections=8), nnx.split(model)
    optimizer, given = optax.adam(5e-3), jax.tree.map(jnp.asarray, batch)

    @jax.jit
    def step(params, state):
        def loss(params):
            model = nnx.merge(graphdef, params, copy=True)
            return total_loss(task.loss(task.apply(model, given, train=True, rngs=nnx.Rngs(0)), given)[0])

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value, gradient

    state, losses = jax.jit(optimizer.init)(params), []
    for number in range(100):
        params, state, value, gradient = step(params, state)
        losses.append(float(value))
        if number == 0:
            for path, leaf in nnx.to_flat_state(jax.tree.map(np.asarray, gradient)):
                assert np.isfinite(leaf[...]).all() and np.abs(leaf[...]).max() > 0, path

    @jax.jit
    def predict(params):
        model = nnx.merge(graphdef, params, copy=True)
        return task.predict(task.apply(model, given, train=False, rngs=None), given)

    predictions = predict(params)
    return losses, jax.tree.map(np.asarray, predictions), batch


def test_two_images_are_overfitted(learned):
    losses, predictions, batch = learned
    assert losses[-1] < 0.05 * losses[0], losses[::10]
    for row in range(2):
        sure = predictions["valid"][row] & (predictions["scores"][row] > 0.5)
        assert sure.sum() == batch["valid"][row].sum()
        for index in np.flatnonzero(batch["valid"][row]):
            near = [overlap(box, batch["boxes"][row, index]) for box in predictions["boxes"][row][sure]]
            assert max(near) > 0.5
            assert predictions["classes"][row][sure][np.argmax(near)] == batch["classes"][row, index]
