"""Suppression equals a loop over boxes in order of falling score, including ties and empty images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.ops import nms

N, CLASSES = 10, 3
SCORE, IOU, CANDIDATES, COUNT = 0.25, 1 / 3, 6, 8
# Corners lie on a small grid and scores are multiples of 1/8. So identical and empty boxes, equal scores and overlaps
# of exactly 1/3 are common.
BOXES = arrays(np.int32, (N, 2, 2), elements=st.integers(0, 4)).map(lambda x: np.float32(np.sort(x, 1).reshape(N, 4)))
SCORES = arrays(np.int32, (N, CLASSES), elements=st.integers(0, 8)).map(lambda x: np.float32(x / 8))

suppress = jax.jit(partial(nms.suppress, iou=IOU, count=5))
suppress_all = jax.jit(partial(nms.suppress, iou=IOU, count=N + 2))
detect = jax.jit(partial(nms.detect, score=SCORE, iou=IOU, candidates=CANDIDATES, count=COUNT))


def overlap(a, b):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return np.float32(shared / union) if union else np.float32(0)


def greedy(boxes, scores, indices):
    """Return the remaining indices in order of falling score."""
    kept = []
    for i in sorted(indices, key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[k], boxes[i]) <= np.float32(IOU) for k in kept):
            kept.append(i)
    return kept


@given(boxes=BOXES, scores=SCORES, valid=arrays(bool, N))
def test_suppression_equals_a_loop(boxes, scores, valid):
    expected = greedy(boxes, scores[:, 0], np.flatnonzero(valid))
    for function, count in ((suppress, 5), (suppress_all, N + 2)):
        indices, mask = function(boxes, scores[:, 0], valid)
        found = min(len(expected), count)
        assert mask.tolist() == [True] * found + [False] * (count - found)
        assert indices.tolist() == expected[:count] + [0] * (count - found)
        assert indices.dtype == jnp.int32 and function._cache_size() == 1


@given(boxes=BOXES, scores=SCORES)
def test_detection_equals_a_loop_over_classes(boxes, scores):
    expected = []
    for c in range(CLASSES):
        ranked = sorted(range(N), key=lambda i: (-scores[i, c], i))[:CANDIDATES]
        kept = greedy(boxes, scores[:, c], [i for i in ranked if scores[i, c] >= SCORE])
        expected += [(scores[i, c], c, boxes[i].tolist()) for i in kept]
    expected = sorted(expected, key=lambda row: -row[0])[:COUNT]
    found, values, classes, mask = map(np.asarray, detect(boxes, scores))
    assert mask.sum() == len(expected) and mask[: len(expected)].all()
    rows = [(values[i], int(classes[i]), found[i].tolist()) for i in range(len(expected))]
    assert rows == expected
    for padding in (found[~mask], values[~mask], classes[~mask]):
        assert (padding == 0).all()
    assert detect._cache_size() == 1


LEVELS = (N, 4, 1)
detect_levels = jax.jit(partial(nms.detect_levels, score=SCORE, iou=IOU, candidates=CANDIDATES, count=COUNT))


@given(boxes=BOXES, scores=SCORES, data=st.data())
def test_detection_on_levels_equals_a_loop(boxes, scores, data):
    """Each level keeps at most six pairs of a box and a class. The last level has only three pairs.

    Then suppression runs on all levels together, per class.
    """
    starts = [data.draw(st.integers(0, N - count)) for count in LEVELS]
    parts = [slice(start, start + count) for start, count in zip(starts, LEVELS, strict=True)]
    levels = [boxes[part] for part in parts], [scores[part] for part in parts]
    pairs = []
    for own_boxes, own_scores in zip(*levels, strict=True):
        ranked = [(own_scores[i, c], i, c) for i in range(len(own_boxes)) for c in range(CLASSES)]
        ranked = sorted((pair for pair in ranked if pair[0] >= SCORE), key=lambda pair: -pair[0])  # stable
        pairs += [(score, c, own_boxes[i]) for score, i, c in ranked[:CANDIDATES]]
    expected = []
    for score, c, box in sorted(pairs, key=lambda pair: -pair[0]):
        if all(other != c or overlap(kept, box) <= np.float32(IOU) for _, other, kept in expected):
            expected.append((score, c, box))
    expected = [(score, c, box.tolist()) for score, c, box in expected[:COUNT]]
    found, values, classes, mask = map(np.asarray, detect_levels(*levels))
    assert mask.tolist() == [True] * len(expected) + [False] * (COUNT - len(expected))
    rows = [(values[i], int(classes[i]), found[i].tolist()) for i in range(len(expected))]
    assert rows == expected
    assert all((padding == 0).all() for padding in (found[~mask], values[~mask], classes[~mask]))
    assert classes.dtype == np.int32 and detect_levels._cache_size() == 1


propose = jax.jit(partial(nms.propose, shortest=1.0, iou=IOU, candidates=CANDIDATES, count=COUNT))


@given(boxes=BOXES, scores=SCORES, data=st.data())
def test_proposals_equal_a_loop(boxes, scores, data):
    """Each level keeps its best boxes. Then narrow boxes are dropped.

    Then suppression runs within each level.
    """
    starts = [data.draw(st.integers(0, N - count)) for count in LEVELS]
    parts = [slice(start, start + count) for start, count in zip(starts, LEVELS, strict=True)]
    objectness = np.nan_to_num(scores[:, 0])
    levels = [boxes[part] for part in parts], [objectness[part] for part in parts]
    ranked = []
    for level, (own_boxes, own_scores) in enumerate(zip(*levels, strict=True)):
        best = sorted(range(len(own_boxes)), key=lambda i: -own_scores[i])[:CANDIDATES]  # stable
        ranked += [(own_scores[i], level, own_boxes[i]) for i in best]
    expected = []
    for score, level, box in sorted(ranked, key=lambda entry: -entry[0]):
        wide = (box[2:] - box[:2] >= 1).all()
        if wide and all(other != level or overlap(kept, box) <= np.float32(IOU) for _, other, kept in expected):
            expected.append((score, level, box))
    found, mask = map(np.asarray, propose(*levels))
    assert mask.tolist() == [True] * len(expected[:COUNT]) + [False] * (COUNT - len(expected[:COUNT]))
    np.testing.assert_array_equal(found[mask], np.reshape([box for _, _, box in expected[:COUNT]], (-1, 4)))
    assert (found[~mask] == 0).all() and propose._cache_size() == 1


def test_detection_on_levels_of_a_batch_equals_a_loop_over_its_images():
    rng = np.random.default_rng(3)
    boxes = [np.float32(np.sort(rng.integers(0, 5, (3, n, 2, 2)), 2).reshape(3, n, 4)) for n in LEVELS]
    scores = [np.float32(rng.integers(0, 9, (3, n, CLASSES)) / 8) for n in LEVELS]
    for level in scores:
        level[1] = np.nan  # this image has no detection
    batch = jax.tree.map(np.asarray, jax.jit(jax.vmap(detect_levels))(boxes, scores))
    assert batch[3].any(1).tolist() == [True, False, True]
    for i in range(3):
        for a, b in zip(batch, detect_levels([x[i] for x in boxes], [x[i] for x in scores]), strict=True):
            np.testing.assert_array_equal(a[i], b)


def test_suppression_equals_hand_computed_results():
    # The second box has IoU 2/4 with the first and with the third. The first and the third have IoU 1/5.
    boxes = np.float32([(0, 0, 1, 3), (0, 1, 1, 4), (0, 2, 1, 5)])

    @partial(jax.jit, static_argnums=1)
    def compiled(scores, iou):
        return nms.suppress(jnp.asarray(boxes), scores, jnp.ones(3, bool), iou=iou, count=3)

    def function(scores, iou):
        return jax.tree.map(np.asarray, compiled(scores, iou))

    indices, mask = function(np.float32([0.9, 0.8, 0.7]), 0.45)
    assert indices.tolist() == [0, 2, 0] and mask.tolist() == [True, True, False]  # a suppressed box suppresses nothing
    indices, mask = function(np.float32([0.7, 0.9, 0.8]), 0.45)
    assert indices.tolist() == [1, 0, 0] and mask.sum() == 1
    assert function(np.float32([0.7, 0.9, 0.8]), 0.5)[1].all()  # boxes are suppressed above the threshold, not at it


def test_one_of_identical_boxes_is_kept_and_all_empty_boxes_are_kept():
    scores, valid = np.full(N, 0.5, np.float32), np.arange(N) > 1
    indices, mask = map(np.asarray, suppress(np.tile(np.float32([1, 1, 3, 3]), (N, 1)), scores, valid))
    assert mask.sum() == 1 and indices[0] == 2
    indices, mask = map(np.asarray, suppress_all(np.zeros((N, 4), np.float32), scores, valid))
    assert indices[mask].tolist() == list(range(2, N))


def test_classes_do_not_suppress_each_other():
    boxes, scores = np.tile(np.float32([1, 1, 3, 3]), (N, 1)), np.zeros((N, CLASSES), np.float32)
    scores[0], scores[1] = [0.5, 0.9, 0.7], 0.4
    _, values, classes, mask = map(np.asarray, detect(boxes, scores))
    assert classes[mask].tolist() == [1, 2, 0]
    np.testing.assert_allclose(values[mask], [0.9, 0.7, 0.5])


def test_boxes_per_class_are_supported():
    rng = np.random.default_rng(0)
    boxes = np.float32(np.sort(rng.integers(0, 9, (N, CLASSES, 2, 2)), 2).reshape(N, CLASSES, 4))
    scores = np.float32(rng.random((N, CLASSES)))
    compiled = jax.jit(partial(nms.detect, score=SCORE, iou=IOU, candidates=CANDIDATES, count=N * CLASSES))

    def every(boxes, scores):
        return jax.tree.map(np.asarray, compiled(boxes, scores))

    found, values, classes, mask = every(boxes, scores)
    for c in range(CLASSES):
        alone = every(boxes[:, c], scores[:, c : c + 1])
        mine = mask & (classes == c)
        np.testing.assert_array_equal(found[mine], alone[0][alone[3]])
        np.testing.assert_array_equal(values[mine], alone[1][alone[3]])
    shared = np.repeat(boxes[:, :1], CLASSES, 1)
    for a, b in zip(detect(shared, scores), detect(boxes[:, 0], scores), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_scores_below_the_threshold_give_no_detections(fill):
    result = detect(np.ones((N, 4), np.float32), np.full((N, CLASSES), fill, np.float32))
    assert not any(np.any(x) for x in result)


def test_nan_scores_are_not_candidates():
    boxes = np.float32(np.arange(N)[:, None] * 10 + [0, 0, 5, 5])
    scores = np.full((N, CLASSES), np.nan, np.float32)
    scores[N - 1] = SCORE
    found, _, _, mask = map(np.asarray, detect(boxes, scores))
    assert mask.sum() == CLASSES and (found[mask] == boxes[N - 1]).all()


def test_fewer_boxes_than_candidates_are_padded():
    boxes, scores = np.float32([[0, 0, 2, 2]]), np.float32([[0.5, 0.9]])
    function = jax.jit(partial(nms.detect, score=0.1, iou=0.5, candidates=400, count=20))
    found, _, classes, mask = map(np.asarray, function(boxes, scores))
    assert found.shape == (20, 4) and mask.tolist() == [True, True] + [False] * 18
    assert classes[:2].tolist() == [1, 0] and (found[:2] == boxes).all()


def test_batch_equals_a_loop_over_its_images():
    rng = np.random.default_rng(2)
    boxes = np.float32(np.sort(rng.integers(0, 5, (4, N, 2, 2)), 2).reshape(4, N, 4))
    scores = np.float32(rng.integers(0, 9, (4, N, CLASSES)) / 8)
    scores[1] = 0  # this image has no detection
    batch = jax.tree.map(np.asarray, jax.jit(jax.vmap(detect))(boxes, scores))
    for i in range(4):
        for a, b in zip(batch, detect(boxes[i], scores[i]), strict=True):
            np.testing.assert_array_equal(a[i], b)


def test_gradients_reach_the_kept_boxes_and_scores():
    boxes = np.float32([(0, 0, 4, 4), (0, 0, 4, 4), (6, 6, 8, 8)])
    scores = np.float32([[0.5], [0.9], [0.7]])

    def total(boxes, scores):
        found, values, _, _ = nms.detect(boxes, scores, score=0.1, iou=0.5, candidates=3, count=3)
        return found.sum() + values.sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(boxes, scores)
    assert gradients[0].tolist() == [[0] * 4, [1] * 4, [1] * 4] and gradients[1].tolist() == [[0], [1], [1]]
