"""Spatial pyramid pooling and its gradients equal known answers and plain loops."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.ops import roi_pool
from models.ops.spatial_pyramid import LEVELS, map_windows, spatial_pyramid_pool

BOXES = (
    np.array(  # yxyx: inside, on centres, across two borders, far outside, a point, no centre, reversed, whole, huge
        [
            [3, 4, 17, 21],
            [2, 6, 10, 14],
            [-9, -7, 12, 60],
            [90, 90, 99, 99],
            [7, 7, 7, 7],
            [7, 3, 9, 5],
            [9, 9, 5, 5],
            [0, 0, 28, 36],
            [-1e30, -1e12, 1e12, 1e30],
        ],
        np.float32,
    )
)


def window(start, end, stride, length):
    """Return the (first, last) pixel with a centre strictly between the edges, found by trying all near them."""
    start, end = (min(max(edge, -50 * stride), 50 * stride) for edge in (float(start), float(end)))
    own = [pixel for pixel in range(-60, 60) if start < (pixel + 0.5) * stride < end]
    if not own:
        first = next(pixel for pixel in range(-60, 60) if (pixel + 0.5) * stride > start)
        last = next(pixel for pixel in range(60, -60, -1) if (pixel + 0.5) * stride < end)
        own = [math.floor((first + last) / 2)]
    return tuple(min(max(pixel, 0), length - 1) for pixel in (own[0], own[-1]))


def oracle(pixels, box, stride, levels, dy):
    """Pool one box of one image in loops, and return the values and the gradient of <dy, values>."""
    height, width, channels = pixels.shape
    (top, bottom), (left, right) = (window(box[i], box[i + 2], stride, n) for i, n in enumerate((height, width)))
    rows, columns = bottom - top + 1, right - left + 1
    values, gradient = [], np.zeros(pixels.shape)
    for level in levels:
        for i in range(level):
            for j in range(level):
                own = pixels[
                    top + math.floor(i * rows / level) : top + math.ceil((i + 1) * rows / level),
                    left + math.floor(j * columns / level) : left + math.ceil((j + 1) * columns / level),
                ]
                for channel in range(channels):
                    y, x = np.unravel_index(own[..., channel].argmax(), own.shape[:2])  # the first of equal ones
                    place = top + i * rows // level + y, left + j * columns // level + x, channel
                    gradient[place] += dy[len(values), channel]
                values.append(own.max((0, 1)))
    return np.array(values), gradient


def test_windows_equal_hand_computed_windows():
    """At stride 16 the centres are at 8, 24, 40 and so on.

    An edge on a centre excludes that pixel.
    """
    boxes = np.array(
        [[0, 0, 96, 128], [8, 23, 72, 25], [7, 24, 73, 56], [25, 41, 39, 55], [9, 200, 23, 300], [-9, -300, -1, -200]],
        np.float32,
    )
    found = jax.jit(partial(map_windows, stride=16, size=(6, 8)))(boxes)
    assert found.tolist() == [[0, 0, 5, 7], [1, 1, 3, 1], [0, 2, 4, 2], [1, 2, 1, 2], [0, 7, 0, 7], [0, 0, 0, 0]]
    # If x is measured from the first centre, this is the paper's formula.
    edges = np.linspace(40, 120, 9).astype(np.float32)
    find = jax.jit(partial(map_windows, stride=16, size=(100, 100)))
    found = np.asarray(find(np.stack([edges, edges, edges + 90, edges + 90], -1)))
    paper = [[math.floor((x - 8) / 16) + 1, math.ceil((x + 90 - 8) / 16) - 1] for x in edges]
    assert found[:, ::2].tolist() == paper


def test_bins_equal_hand_computed_bins():
    """The largest value of a bin of a ramp is in its last corner.

    With 7 pixels, 2 bins end at 4 and 7, and 3 bins end at 3, 5 and 7.
    """
    ramp = np.arange(49, dtype=np.float32).reshape(1, 7, 7, 1)
    found = np.asarray(jax.jit(partial(spatial_pyramid_pool, stride=8))(ramp, np.float32([[[0, 0, 56, 56]]])))
    ends = {1: [6], 2: [3, 6], 3: [2, 4, 6], 6: [1, 2, 3, 4, 5, 6]}
    expected = [7 * row + column for level in LEVELS for row in ends[level] for column in ends[level]]
    assert found.shape == (1, 1, 50, 1) and found[0, 0, :, 0].tolist() == expected


@pytest.mark.parametrize(("levels", "whole"), [(LEVELS, True), ((4, 2), False)])
def test_values_and_gradients_equal_loops(monkeypatch, levels, whole):
    """If values are `whole` numbers, many are equal. Channels are pooled in chunks, and the last chunk is not full."""
    monkeypatch.setattr(roi_pool, "CHUNK", 2)
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 7, 9, 3)).astype(np.float32)
    pixels = np.round(pixels) if whole else pixels
    boxes = np.stack([BOXES, BOXES[::-1]])
    dy = rng.standard_normal((2, len(BOXES), sum(level**2 for level in levels), 3)).astype(np.float32)

    @jax.jit
    def differentiate(pixels, dy):
        values, transpose = jax.vjp(partial(spatial_pyramid_pool, boxes=boxes, stride=4, levels=levels), pixels)
        return values, transpose(dy)[0]

    found, gradient = differentiate(pixels, dy)
    for image in range(2):
        own = [oracle(pixels[image], box, 4, levels, out) for box, out in zip(boxes[image], dy[image], strict=True)]
        np.testing.assert_array_equal(found[image], [values for values, _ in own])
        np.testing.assert_allclose(gradient[image], sum(own for _, own in own), atol=1e-5)


def test_one_table_serves_all_levels(monkeypatch):
    """The table takes most of the memory.

    A table for each of the four levels would take four times as much.
    """
    built, table = [], roi_pool._table
    monkeypatch.setattr(roi_pool, "_table", lambda cells: built.append(1) or table(cells))
    jax.eval_shape(partial(spatial_pyramid_pool, stride=16), jnp.zeros((1, 5, 5, 200)), jnp.zeros((1, 3, 4)))
    assert len(built) == 1


def test_boxes_have_no_gradient():
    def total(boxes, pixels):
        return spatial_pyramid_pool(pixels, boxes, stride=1, levels=(1, 2)).sum()

    pixels, boxes = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1), np.float32([[[0.3, 0.4, 3.1, 2.2]]])
    assert not np.any(jax.jit(jax.grad(total))(boxes, pixels))
