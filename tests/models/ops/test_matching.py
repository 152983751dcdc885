"""Matchings equal loops over pairs, including ties and empty images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.ops import matching
from models.ops.boxes import pairwise_iou

TRUTHS, ANCHORS = 4, 6
# Overlaps are multiples of 1/8, so ties and overlaps that equal a threshold are common.
OVERLAPS = arrays(np.int32, (TRUTHS, ANCHORS), elements=st.integers(0, 8)).map(lambda x: np.float32(x / 8))
VALID = arrays(bool, TRUTHS)
MATCHERS = {
    "argmax": matching.by_argmax,
    "threshold": partial(matching.by_threshold, low=0.375, high=0.5, low_quality=False),
    "low quality": partial(matching.by_threshold, low=0.375, high=0.5, low_quality=True),
    "bipartite": partial(matching.bipartite, threshold=0.5),
}
JITTED = {name: jax.jit(matcher) for name, matcher in MATCHERS.items()}


def best_truths(iou, valid):
    """Return each anchor's (overlap, ground truth), by a loop."""
    found = []
    for a in range(iou.shape[1]):
        best = (-1.0, 0)
        for m in range(len(iou)):
            if valid[m] and iou[m, a] > best[0]:
                best = iou[m, a], m
        found.append(best)
    return found


def argmax_oracle(iou, valid):
    owners = [-1] * iou.shape[1]
    for m in np.flatnonzero(valid):
        a = list(iou[m]).index(max(iou[m]))
        if iou[m, a] > 0 and (owners[a] < 0 or iou[m, a] > iou[owners[a], a]):
            owners[a] = m
    return owners, [False] * len(owners)


def threshold_oracle(iou, valid, low_quality):
    owners, ignored = [], []
    for a, (overlap, m) in enumerate(best_truths(iou, valid)):
        positive = overlap >= 0.5
        if low_quality:
            positive |= any(valid[k] and iou[k, a] > 0 and iou[k, a] == max(iou[k]) for k in range(len(iou)))
        owners.append(m if positive else -1)
        ignored.append(overlap >= 0.375 and not positive)
    return owners, ignored


def bipartite_oracle(iou, valid):
    owners = [m if overlap >= 0.5 else -1 for overlap, m in best_truths(iou, valid)]
    pairs = sorted((-iou[m, a], m, a) for m in np.flatnonzero(valid) for a in range(iou.shape[1]) if iou[m, a] > 0)
    truths, anchors = set(), set()
    for _, m, a in pairs:
        if m not in truths and a not in anchors:
            truths.add(m)
            anchors.add(a)
            owners[a] = m
    return owners, [False] * len(owners)


ORACLES = {
    "argmax": argmax_oracle,
    "threshold": partial(threshold_oracle, low_quality=False),
    "low quality": partial(threshold_oracle, low_quality=True),
    "bipartite": bipartite_oracle,
}


def owners(result):
    return np.where(result.positive, result.objects, -1).tolist()


@pytest.mark.parametrize("name", MATCHERS)
@given(iou=OVERLAPS, valid=VALID)
def test_matchings_equal_loops(name, iou, valid):
    result = jax.tree.map(np.asarray, JITTED[name](iou, valid))
    expected, ignored = ORACLES[name](iou, valid)
    assert owners(result) == expected
    assert result.ignored.tolist() == ignored
    assert (result.objects[~result.positive] == 0).all() and result.objects.dtype == jnp.int32
    assert JITTED[name]._cache_size() == 1


@pytest.mark.parametrize("name", MATCHERS)
def test_values_of_invalid_rows_have_no_effect(name):
    iou = np.float32(np.random.default_rng(0).random((TRUTHS, ANCHORS)))
    valid = np.array([True, False, True, False])
    filled = np.where(valid[:, None], iou, np.array([[0], [np.nan], [0], [9]], np.float32))
    for a, b in zip(JITTED[name](iou, valid), JITTED[name](filled, valid), strict=True):
        np.testing.assert_array_equal(a, b)
    empty = JITTED[name](filled, np.zeros(TRUTHS, bool))
    assert not any(np.any(x) for x in empty)  # without objects all anchors are negative


@pytest.mark.parametrize("name", MATCHERS)
def test_batch_equals_a_loop_over_its_images(name):
    rng = np.random.default_rng(1)
    iou, valid = np.float32(rng.integers(0, 9, (5, TRUTHS, ANCHORS)) / 8), rng.random((5, TRUTHS)) < 0.7
    batch = jax.tree.map(np.asarray, jax.jit(jax.vmap(MATCHERS[name]))(iou, valid))
    for i in range(5):
        for a, b in zip(batch, JITTED[name](iou[i], valid[i]), strict=True):
            np.testing.assert_array_equal(a[i], b)


def test_two_truths_with_one_best_anchor_both_match_only_in_ssd():
    iou = np.zeros((TRUTHS, ANCHORS), np.float32)
    iou[:2, :3] = [0.4, 0.75, 0.0], [0.45, 0.8, 0.1]
    results = {name: matcher(iou, np.arange(TRUTHS) < 2) for name, matcher in JITTED.items()}
    assert owners(results["bipartite"])[:3] == [0, 1, -1]
    assert owners(results["argmax"])[:3] == [-1, 1, -1]
    # The anchor keeps its best object, so the first object has no anchor, as in Faster R-CNN.
    assert owners(results["low quality"])[:3] == [-1, 1, -1]
    assert results["low quality"].ignored[:3].tolist() == [True, False, False]


def test_bipartite_matching_settles_dependent_pairs():
    # Each object loses its best anchor to the next one, so only one pair is settled per round.
    count = 6
    iou = np.zeros((count, count), np.float32)
    for m in range(count):
        iou[m, m], iou[m, min(m + 1, count - 1)] = 0.1 + 0.1 * m, 0.15 + 0.1 * m
    match = jax.jit(partial(matching.bipartite, threshold=0.99))
    assert owners(match(iou, np.ones(count, bool))) == list(range(count))


def test_low_quality_matches_every_tied_anchor():
    # Two anchors overlap a small object equally. A third anchor overlaps it less.
    anchors = np.float32([(0, 0, 8, 8), (0, 4, 8, 12), (0, 6, 8, 14)])
    truths = np.float32([(2, 4, 6, 8), (0, 0, 0, 0)])

    @jax.jit
    def match(truths):
        iou = pairwise_iou(truths, jnp.asarray(anchors))
        return iou, MATCHERS["low quality"](iou, jnp.ones(2, bool))

    iou, result = jax.tree.map(np.asarray, match(truths))
    assert iou[0, 0] == iou[0, 1] == 16 / 64
    assert owners(result) == [0, 0, -1]  # and the object without area has none


def test_matching_has_no_gradient():
    def loss(boxes, anchors):
        iou = pairwise_iou(boxes, anchors)
        chosen = [matcher(iou, jnp.ones(2, bool)).positive for matcher in MATCHERS.values()]
        return (anchors * jnp.stack(chosen)[..., None]).sum()

    boxes = np.float32([(0, 0, 4, 4), (2, 2, 6, 6)])
    gradients = jax.tree.map(np.asarray, jax.jit(jax.grad(loss, (0, 1)))(boxes, boxes + 1))
    assert (gradients[0] == 0).all() and np.isfinite(gradients[1]).all()
