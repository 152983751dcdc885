"""Decoding inverts encoding, offsets equal hand-computed numbers, and all values are finite for any input."""

import math
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.ops import coding

VARIANCES = (0.1, 0.1, 0.2, 0.2)
BOXES = arrays(np.float32, (2, 5, 2, 2), elements=st.floats(-300, 300, width=32)).map(
    lambda x: np.sort(x, 2).reshape(2, 5, 4)
)


@jax.jit
def encode(boxes, anchors):
    return coding.encode(boxes, anchors, variances=VARIANCES)


@jax.jit
def decode(offsets, anchors):
    return coding.decode(offsets, anchors, variances=VARIANCES)


def test_offsets_equal_hand_computed_values():
    anchor, box = np.float32([0, 0, 10, 20]), np.float32([5, 10, 25, 30])
    # The centre moves from (5, 10) to (15, 20). The sides change from (10, 20) to (20, 20).
    offsets = jax.jit(partial(coding.encode, variances=(1, 1, 1, 1)))(box, anchor)
    np.testing.assert_allclose(offsets, [1, 0.5, math.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(encode(box, anchor), [10, 5, 5 * math.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(decode(np.float32([10, 5, 5 * math.log(2), 0]), anchor), box, rtol=1e-6)
    np.testing.assert_array_equal(decode(np.zeros(4, np.float32), anchor), anchor)


@given(BOXES)
def test_decode_inverts_encode(pair):
    boxes, anchors = pair
    anchors = anchors + np.float32([0, 0, 20, 20])  # every side of an anchor has at least 20 pixels
    offsets = encode(boxes, anchors)
    assert np.isfinite(offsets).all()
    np.testing.assert_allclose(decode(offsets, anchors), boxes, atol=1e-3)


def test_decoded_sides_are_limited_and_all_values_are_finite():
    anchors = np.float32([(0, 0, 10, 20), (3, 3, 3, 3), (0, 0, 0, 0)])
    for huge in (1e4, 1e30, -1e30):
        boxes = np.asarray(decode(np.full((3, 4), huge, np.float32), anchors))
        assert np.isfinite(boxes).all()
        assert (boxes[:, :2] <= boxes[:, 2:]).all()
    sides = np.asarray(decode(np.float32([0, 0, 1e4, 1e4]), anchors[0]))
    np.testing.assert_allclose(sides[2:] - sides[:2], [625, 1250], rtol=1e-5)
    for boxes in (anchors, anchors[::-1]):
        assert np.isfinite(encode(boxes, anchors)).all()


@pytest.mark.parametrize("function", [encode, decode])
def test_gradients_are_finite(function):
    anchors, inputs = np.float32([(0, 0, 10, 20), (3, 3, 3, 3)]), np.float32([(0, 0, 0, 0), (0, 0, 1e4, 1e4)])
    gradients = jax.jit(jax.grad(lambda *x: function(*x).sum(), (0, 1)))(inputs, anchors)
    assert all(np.isfinite(x).all() for x in gradients)


def test_distances_are_from_the_centre_to_the_edges():
    anchors = np.float32([(4, 2, 12, 10), (0, 0, 4, 16)])  # centres (8, 6) and (2, 8)
    boxes = np.float32([(0, 4, 16, 14), (4, 0, 5, 32)])
    distances = jax.jit(coding.encode_distances)(boxes, anchors)
    np.testing.assert_allclose(distances, [(1, 0.25, 1, 1), (-0.5, 0.5, 0.75, 1.5)])
    np.testing.assert_allclose(jax.jit(coding.decode_distances)(distances, anchors), boxes)
