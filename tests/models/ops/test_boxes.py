"""Overlaps equal counted pixels and hand-computed numbers.

Values and gradients are finite for every box.
"""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.ops import boxes as ops

SIDE = 8
# Corners lie on a small grid, so touching, nested, identical and empty boxes are common.
BOXES = arrays(np.int32, (2, 6, 2, 2), elements=st.integers(0, SIDE)).map(lambda x: np.sort(x, 2).reshape(2, 6, 4))
POINT, LINE, BOX, FAR = (3, 3, 3, 3), (1, 2, 1, 6), (1, 2, 5, 4), (20, 30, 24, 36)


def pixels(box):
    """Return the mask of a box with integer corners."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[box[0] : box[2], box[1] : box[3]] = True
    return mask


def hull(a, b):
    """Return the smallest box around two boxes, found from all their corners."""
    rows, columns = (a[0], a[2], b[0], b[2]), (a[1], a[3], b[1], b[3])
    return min(rows), min(columns), max(rows), max(columns)


@jax.jit
def overlaps(a, b):
    pairs = a[:, None], b[None]
    return ops.pairwise_iou(a, b), ops.pairwise_coverage(a, b), ops.giou(*pairs), ops.iou(*pairs), ops.area(a)


@jax.jit
def compiled(a, b):
    """Return for each measure its values [...] of pairs [...,4], and the gradients [...,4] of both boxes."""

    def both(function):
        return function(a, b), *jax.grad(lambda a, b: function(a, b).sum(), (0, 1))(a, b)

    return {function.__name__: both(function) for function in (ops.iou, ops.giou, ops.ciou)}


def measure(a, b):
    """Return the results of `compiled` for any pairs, in one batch of the same size, so that one program serves most calls."""
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    pairs = np.zeros((2, max(49, math.prod(shape[:-1])), 4), np.float32)
    for rows, boxes in zip(pairs, (a, b), strict=True):
        rows[: math.prod(shape[:-1])] = np.broadcast_to(boxes, shape).reshape(-1, 4)
    results = jax.tree.map(np.asarray, compiled(*pairs))
    return jax.tree.map(lambda x: x[: math.prod(shape[:-1])].reshape((*shape[:-1], *x.shape[1:])), results)


def value(name, a, b):
    return measure(a, b)[name][0]


def gradient(name, a, b):
    return measure(a, b)[name][1]


@given(BOXES)
def test_overlaps_are_ratios_of_counted_pixels(boxes):
    iou, coverage, giou, elementwise, area = map(np.asarray, overlaps(*boxes.astype(np.float32)))
    np.testing.assert_allclose(iou, elementwise, rtol=2e-7)
    for i, a in enumerate(boxes[0]):
        assert area[i] == pixels(a).sum()
        for j, b in enumerate(boxes[1]):
            shared, union = (pixels(a) & pixels(b)).sum(), (pixels(a) | pixels(b)).sum()
            around = pixels(hull(a, b)).sum()
            expected = shared / union if union else 0.0
            # A compiler may multiply by the reciprocal. The result then differs by a unit in the last place.
            assert iou[i, j] == pytest.approx(expected, rel=2e-7)
            assert coverage[i, j] == pytest.approx(shared / area[i] if area[i] else 0, rel=2e-7)
            expected -= (around - union) / around if around else 0.0
            assert abs(giou[i, j] - expected) < 1e-6


def test_overlaps_equal_hand_computed_values():
    a, b = (0, 0, 2, 4), (1, 2, 5, 4)  # they share 1 x 2 of 8 + 8 - 2; the hull is 5 x 4
    assert value("iou", a, b) == pytest.approx(1 / 7)
    assert value("giou", a, b) == pytest.approx(1 / 7 - 6 / 20)
    v = 4 / math.pi**2 * (math.atan(4 / 2) - math.atan(2 / 4)) ** 2
    # The centres are (1, 2) and (3, 3). The hull's diagonal is sqrt(25 + 16).
    assert value("ciou", a, b) == pytest.approx(1 / 7 - 5 / 41 - v / (1 - 1 / 7 + v) * v)
    # Fractions of pixels count. Corners are not rounded, and 1 is not added to the sides.
    assert value("iou", a, (0.5, 0, 2.5, 4)) == pytest.approx(1.5 / 2.5)


def test_disjoint_and_empty_boxes_have_the_expected_overlaps():
    for name in ("iou", "giou", "ciou"):
        assert value(name, BOX, BOX) == 1
        assert value(name, POINT, POINT) == 0
    assert value("iou", POINT, BOX) == value("iou", LINE, LINE) == value("iou", BOX, FAR) == 0
    assert value("giou", BOX, FAR) == pytest.approx((8 + 24) / (23 * 34) - 1)  # minus the uncovered part of the hull
    assert value("giou", POINT, (20, 30, 20, 30)) == -1  # the whole hull of two points is uncovered


def test_values_and_gradients_are_finite_for_every_pair():
    kinds = np.float32([POINT, LINE, BOX, FAR, (1, 2, 1 + 1e-6, 2 + 1e-6), (0, 0, 1e-9, 1e-9), (-1e5, -1e5, 1e5, 1e5)])
    huge = np.float32([POINT, LINE, (0, 0, 1e18, 1e18), (0, 0, 1, 1e18), (5e17, 0, 1e18, 5e17), (1e18,) * 4])
    for boxes in (kinds, huge):
        a, b = np.repeat(boxes, len(boxes), 0), np.tile(boxes, (len(boxes), 1))
        for name, results in measure(a, b).items():
            assert all(np.isfinite(x).all() for x in results), name
    assert value("iou", huge[2], huge[4]) == pytest.approx(0.25)
    assert value("ciou", huge[2], huge[4]) == pytest.approx(0.25 - 0.0625)  # centres a quarter of the diagonal apart


def test_gradients_equal_finite_differences_with_constant_alpha():
    a, b = np.array([0.5, 0.25, 2.5, 4.5]), np.array([1.0, 2.0, 5.0, 4.0])

    def terms(a):
        """Return the IoU, the uncovered share of the hull, the distance of centres and the difference of ratios."""
        low, high = np.minimum(a, b), np.maximum(a, b)
        shared, around = (low[2:] - high[:2]).prod(), high[2:] - low[:2]
        sides, others = a[2:] - a[:2], b[2:] - b[:2]
        union = sides.prod() + others.prod() - shared
        shift = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
        v = 4 / math.pi**2 * (math.atan(sides[1] / sides[0]) - math.atan(others[1] / others[0])) ** 2
        return np.array([shared / union, 1 - union / around.prod(), (shift**2).sum() / (around**2).sum(), v])

    rows = np.array([(terms(a + step) - terms(a - step)) / 2e-5 for step in 1e-5 * np.eye(4)]).T
    overlap, _, _, v = terms(a)
    alpha = v / (1 - overlap + v)
    factors = {"iou": (1, 0, 0, 0), "giou": (1, -1, 0, 0), "ciou": (1, 0, -1, -alpha)}
    for name, row in factors.items():
        np.testing.assert_allclose(gradient(name, a, b), row @ rows, atol=1e-5, err_msg=name)


def test_giou_and_ciou_gradients_pull_disjoint_boxes_together():
    assert (gradient("iou", BOX, FAR) == 0).all()
    for name in ("giou", "ciou"):
        assert (gradient(name, BOX, FAR)[2:] > 0).all(), name


def test_clip_limits_boxes_to_the_image():
    boxes = np.float32([(-3, 2, 5, 40), (1, 2, 3, 4), (-9, -9, -1, -1), (20, 30, 40, 50)])
    expected = [(0, 2, 5, 20), (1, 2, 3, 4), (0, 0, 0, 0), (10, 20, 10, 20)]
    for size in ((10, 20), np.array([10, 20])):
        np.testing.assert_array_equal(jax.jit(lambda boxes, size=size: ops.clip(boxes, size))(boxes), expected)


def test_corners_convert_to_centres_and_back():
    boxes = np.float32([BOX, POINT])
    centres = jax.jit(ops.to_centres)(boxes)
    np.testing.assert_array_equal(centres, [(3, 3, 4, 2), (3, 3, 0, 0)])
    np.testing.assert_array_equal(jax.jit(ops.from_centres)(centres), boxes)
