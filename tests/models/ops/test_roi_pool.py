"""RoI max pooling and its gradients equal known answers, plain loops and torchvision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops import roi_pool as module
from models.ops.roi_pool import roi_pool
from tests.models.ops.test_roi_align import run as differentiate

BOXES = np.array(  # yxyx: inside, halves, across two borders, far outside, a point, reversed, whole image, huge
    [
        [3, 4, 17, 21],
        [2, 6, 10, 14],
        [-9, -7, 12, 60],
        [90, 90, 99, 99],
        [7, 7, 7, 7],
        [9, 9, 5, 5],
        [0, 0, 28, 36],
        [-1e30, -1e12, 1e12, 1e30],
    ],
    np.float32,
)


def run(pool, pixels, boxes, **fields):
    """Return the values of the compiled pooling."""
    return np.asarray(jax.jit(partial(pool, **fields))(pixels, np.array(boxes, np.float32)))


def away_from_zero(value):
    return int(np.sign(value) * np.floor(abs(value) + 0.5))


def edges(start, last, count, length):
    """Return (first, end) of each bin of a line, clipped to the line."""
    pixels = max(last - start + 1, 1)
    bins = [(start + n * pixels // count, start + -(-(n + 1) * pixels // count)) for n in range(count)]
    return [(min(max(first, 0), length), min(max(end, 0), length)) for first, end in bins]


def oracle(pixels, box, stride, size, dy):
    """Pool one box of one image in loops, and return the values and the gradient of <dy, values>."""
    height, width, channels = pixels.shape
    top, left, bottom, right = (away_from_zero(np.clip(value / stride, -(2**20), 2**20)) for value in box)
    values, gradient = np.zeros((*size, channels)), np.zeros(pixels.shape)
    for row, (first_row, end_row) in enumerate(edges(top, bottom, size[0], height)):
        for column, (first, end) in enumerate(edges(left, right, size[1], width)):
            for channel in range(channels):
                places = [(y, x) for y in range(first_row, end_row) for x in range(first, end)]
                if places:
                    # Of equal pixels, max returns the first one.
                    best = max(places, key=lambda place, channel=channel: pixels[*place, channel])
                    values[row, column, channel] = pixels[*best, channel]
                    gradient[*best, channel] += dy[row, column, channel]
    return values, gradient


def test_bins_equal_hand_computed_bins():
    """A box of pixels 1 to 5 has the two bins 1 to 3 and 3 to 5, which share pixel 3."""
    ramp = np.arange(49, dtype=np.float32).reshape(1, 7, 7, 1)
    found = run(roi_pool, ramp, [[[1.0, 1, 5, 5]]], stride=1, size=(2, 2))
    np.testing.assert_array_equal(found[0, 0, ..., 0], [[3 * 7 + 3, 3 * 7 + 5], [5 * 7 + 3, 5 * 7 + 5]])
    # Halves are rounded away from zero. The first box has rows 2 and 3, and its middle bin has both. The second box has
    # rows -2 to 1. Only rows 0 and 1 are inside the map.
    found = run(roi_pool, ramp, [[[12.0, 8, 20, 16], [-12, -12, 4, 4]]], stride=8, size=(3, 3))
    np.testing.assert_array_equal(found[0, 0, ..., 0], [[15, 16, 16], [22, 23, 23], [22, 23, 23]])
    np.testing.assert_array_equal(found[0, 1, ..., 0], [[0, 0, 0], [0, 0, 1], [0, 7, 8]])


@pytest.mark.parametrize(("size", "whole"), [((2, 3), True), ((3, 2), False), ((7, 7), True)])
def test_values_and_gradients_equal_loops(monkeypatch, size, whole):
    """If values are `whole` numbers, many are equal. Channels are pooled in chunks, and the last chunk is not full."""
    monkeypatch.setattr(module, "CHUNK", 2)
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 7, 9, 3)).astype(np.float32)
    pixels = np.round(pixels) if whole else pixels
    boxes = np.stack([BOXES, BOXES[::-1]])
    dy = rng.standard_normal((2, len(BOXES), *size, 3)).astype(np.float32)
    found, gradient = differentiate(partial(roi_pool, boxes=boxes, stride=4, size=size), pixels, dy)
    for image in range(2):
        own = [oracle(pixels[image], box, 4, size, out) for box, out in zip(boxes[image], dy[image], strict=True)]
        np.testing.assert_array_equal(found[image], [values for values, _ in own])
        np.testing.assert_allclose(gradient[image], sum(own for _, own in own), atol=1e-5)


def test_one_pixel_map_and_boxes_of_many_sizes_are_pooled():
    """Boxes of every length are pooled."""
    one = run(roi_pool, np.full((1, 1, 1, 1), -3, np.float32), [[[0.0, 0, 5, 5]]], stride=16, size=(2, 2))
    assert (one == -3).all(), "negative values are kept"
    pixels = np.random.default_rng(1).standard_normal((1, 17, 16, 1)).astype(np.float32)
    ends = [(top, left, bottom, right) for top, left in ((0, 0), (3, 1)) for bottom in range(17) for right in (5, 15)]
    found = run(roi_pool, pixels, np.array(ends, np.float32)[None], stride=1, size=(1, 1))
    expected = [pixels[0, t : max(b, t) + 1, x : r + 1].max() for t, x, b, r in np.array(ends)]
    np.testing.assert_array_equal(found[0, :, 0, 0, 0], expected)


def test_boxes_have_no_gradient_and_the_dtype_is_kept():
    pool = partial(roi_pool, stride=1, size=(2, 2))
    low = np.arange(25).reshape(1, 5, 5, 1).astype(jnp.bfloat16)
    boxes = np.float32([[[0.3, 0.4, 3.1, 2.2]]])
    differentiate = jax.grad(lambda low, boxes: pool(low, boxes).astype(jnp.float32).sum(), (0, 1))
    gradient, none = jax.jit(differentiate)(low, boxes)
    assert not np.any(none)
    assert jax.eval_shape(pool, low, boxes).dtype == gradient.dtype == jnp.bfloat16
    assert np.asarray(gradient).sum() == 4


@pytest.mark.parametrize("rectified", [False, True])
def test_values_and_gradients_equal_torchvision(rectified):
    """After a ReLU half of the values are 0, so they are equal."""
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    rng = np.random.default_rng(3)
    pixels, size = rng.standard_normal((2, 20, 31, 4)).astype(np.float32), (7, 5)
    pixels = pixels.clip(0) if rectified else pixels
    corner, side = rng.uniform(-20, 310, (2, 40, 2)), rng.uniform(-20, 300, (2, 40, 2))
    boxes = np.concatenate([corner, corner + side], -1).astype(np.float32)
    dy = rng.standard_normal((2, 40, *size, 4)).astype(np.float32)
    found, gradient = differentiate(partial(roi_pool, boxes=boxes, stride=16, size=size), pixels, dy)
    theirs = torch.tensor(pixels.transpose(0, 3, 1, 2), requires_grad=True)
    regions = [torch.tensor(own[:, [1, 0, 3, 2]]) for own in boxes]
    expected = torchvision.ops.roi_pool(theirs, regions, size, 1 / 16)
    found, gradient = np.asarray(found), np.asarray(gradient)
    np.testing.assert_array_equal(found.reshape(80, *size, 4), expected.detach().numpy().transpose(0, 2, 3, 1))
    expected.backward(torch.tensor(dy.reshape(80, *size, 4).transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)
