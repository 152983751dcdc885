"""Colours equal hand-computed values, and a table turns functions into augmentations."""

import numpy as np
import pytest

from configs.common import get_config
from input_pipeline.augment import colour

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)


def make_augment(**fields):
    augment = get_config().data.augment
    augment.update(fields)
    return augment


def test_colour_functions_equal_known_values():
    image = np.array([[[100, 50, 200]]], np.float32)
    grey = 0.299 * 100 + 0.587 * 50 + 0.114 * 200
    np.testing.assert_allclose(colour.adjust_brightness(image, 1.5)[0, 0], [150, 75, 300])
    np.testing.assert_allclose(colour.adjust_saturation(image, 0.0)[0, 0], [grey] * 3, rtol=1e-5)
    np.testing.assert_allclose(colour.adjust_contrast(image, 0.0)[0, 0], [grey] * 3, rtol=1e-5)
    for turns in (0.0, 1.0):
        np.testing.assert_allclose(colour.adjust_hue(image, turns), image, atol=1e-2)
    # The hue changes, and the brightness does not.
    turned = colour.adjust_hue(image, 0.3)[0, 0] @ [0.299, 0.587, 0.114]
    assert turned == pytest.approx(grey, rel=1e-3)


def test_disabled_augmentation_keeps_the_image_and_draws_nothing():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(colour.draw_colours(rng, IMAGE, make_augment()), IMAGE)
    assert rng.random() == np.random.default_rng(0).random()


def test_draws_follow_the_table_and_skip_disabled_fields():
    rng = np.random.default_rng(3)
    drawn = colour.draw_colours(np.random.default_rng(3), IMAGE, make_augment(hue=0.2, brightness=0.5))
    bright = colour.adjust_brightness(IMAGE.astype(np.float32), rng.uniform(0.5, 1.5))
    turned = colour.adjust_hue(bright, rng.uniform(-0.2, 0.2))
    np.testing.assert_array_equal(drawn, np.rint(turned.clip(0, 255)).astype(np.uint8))


def test_new_augmentation_needs_only_a_function_and_a_name(monkeypatch):
    monkeypatch.setitem(colour.COLOURS, "darken", (lambda most: (most, most), lambda image, by: image - np.float32(by)))
    drawn = colour.draw_colours(np.random.default_rng(0), np.full_like(IMAGE, 60), {**make_augment(), "darken": 20.0})
    assert (drawn == 40).all()
