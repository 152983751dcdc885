"""Pictures of label maps show what they are given."""

import numpy as np
import pytest

from experiments.pictures import labels as pictures
from experiments.pictures.labels import compare_labels, overlay
from experiments.pictures.palette import palette
from input_pipeline.batch import IGNORE

RNG = np.random.default_rng(0)


def test_an_overlay_mixes_the_colour_with_the_grey_image_and_draws_borders_in_full():
    image = np.full((6, 6, 3), 100, np.uint8)
    label = np.zeros((6, 6), np.uint8)
    label[:, 3:] = 1
    drawn = overlay(image, label)
    mixed = (0.6 * palette()[:2] + 0.4 * 100).round()
    np.testing.assert_array_equal(drawn[:, 0], np.tile(mixed[0], (6, 1)))
    np.testing.assert_array_equal(drawn[:, 5], np.tile(mixed[1], (6, 1)))
    np.testing.assert_array_equal(drawn[:, 2], np.tile(palette()[0], (6, 1)))


@pytest.mark.parametrize(("count", "height", "width"), [(1, 512, 384), (2, 64, 96), (5, 200, 200)])
def test_a_comparison_shows_every_image_truth_and_prediction(count, height, width):
    images = RNG.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    images[:] = images[:, :1, :1]  # one colour each: enlarging keeps it
    labels = np.zeros((count, height, width), np.uint8)
    predictions = np.ones_like(labels)
    drawn = compare_labels(images, labels, predictions, ["ground", "figure", "absent"])
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    factor = max(1, -(-pictures.SMALLEST_TILE // min(height, width)))
    for image in images:
        mixed = [overlay(image[:1, :1], np.full((1, 1), index, np.uint8))[0, 0] for index in (0, 1)]
        for colour in (image[0, 0], *mixed):
            assert (drawn == colour).all(-1).sum() >= height * width * factor**2
    for index, shown in ((0, True), (1, True), (2, False)):  # the legend holds the classes that occur
        assert (drawn == palette()[index]).all(-1).any() == shown


def test_a_comparison_has_a_legend_of_any_length():
    label = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64) % 151
    label[label == 150] = IGNORE
    names = [f"a class with a long name, number {index}" for index in range(150)]
    short, long = (
        compare_labels(np.zeros((1, 64, 64, 3), np.uint8), shown, shown, names)
        for shown in (np.zeros((1, 64, 64), np.uint8), label.astype(np.uint8))
    )
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 50 * 15
