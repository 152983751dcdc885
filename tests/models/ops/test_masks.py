"""Mask crops equal plain loops and show the part of the mask inside the region."""

import jax
import numpy as np
import pytest

from models.ops import masks

SIZE = (5, 4)  # of a crop


def sample(mask, y, x):
    """Return a mask's value at a point, interpolated bilinearly between the centres of the cells.

    The value is 0 beyond the cells.
    """
    total = 0.0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            total += mask[row, column] * max(0, 1 - abs(y - row - 0.5)) * max(0, 1 - abs(x - column - 0.5))
    return total


def crop(mask, box, region):
    cells = np.zeros(SIZE)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            for i in (0.25, 0.75):
                for j in (0.25, 0.75):
                    y = region[0] + (row + i) / SIZE[0] * (region[2] - region[0])
                    x = region[1] + (column + j) / SIZE[1] * (region[3] - region[1])
                    y, x = (y - box[0]) / (box[2] - box[0]), (x - box[1]) / (box[3] - box[1])
                    cells[row, column] += sample(mask, y * mask.shape[0], x * mask.shape[1]) / 4
    return cells


def run(cells, boxes, regions, size=SIZE):
    return np.asarray(jax.jit(masks.crop, static_argnames="size")(cells, boxes, regions, size=size))


def test_mask_crops_equal_loops():
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 2, (12, 6, 7)).astype(np.uint8)
    boxes, regions = (
        np.concatenate([c := rng.uniform(0, 40, (12, 2)), c + rng.uniform(5, 30, (12, 2))], 1) for _ in "ab"
    )
    boxes, regions = boxes.astype(np.float32), (0.5 * (boxes + regions)).astype(np.float32)
    expected = [crop(*row) for row in zip(cells.astype(float), boxes.astype(float), regions.astype(float), strict=True)]
    np.testing.assert_allclose(run(cells, boxes, regions), expected, atol=1e-5)


def test_crop_of_the_objects_own_box_shows_the_whole_mask():
    """At the mask's own size the inner cells do not change. A region twice as large has zeros around the mask."""
    cells = np.ones((1, 8, 8), np.uint8)
    box = np.float32([[10, 20, 26, 52]])
    np.testing.assert_allclose(run(cells, box, box, size=(8, 8))[0, 1:-1, 1:-1], 1, atol=1e-6)
    around = run(cells, box, np.float32([[2, 4, 34, 68]]), size=(8, 8))[0]
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    np.testing.assert_allclose(around.round(), expected)
    assert (around[:, [0, 1, 6, 7]] == 0).all() and (around[[0, 1, 6, 7]] == 0).all()


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 5, 20)])
def test_boxes_without_area_give_finite_crops(box):
    box, other = np.float32([box]), np.float32([[0, 0, 9, 9]])
    for own, region in ((box, box), (box, other), (other, box)):
        found = run(np.ones((1, 6, 6), np.uint8), own, region)
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1 + 1e-6
