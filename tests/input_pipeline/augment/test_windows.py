"""SSD's windows have the properties that the paper states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.common import get_config
from input_pipeline.augment import windows
from input_pipeline.objects import area, overlap
from tests.input_pipeline.test_objects import make

SIZE = (90, 120)
OBJECTS = make([[10, 20, 70, 100], [30, 5, 40, 15], [0, 0, 90, 120]], crowd=[0, 0, 1])
seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.tuples(st.integers(1, 200), st.integers(1, 200)), st.floats(1, 6))
def test_zoomed_out_image_lies_inside_the_larger_canvas(seed, size, largest):
    top, left, bottom, right = windows.zoom_out(np.random.default_rng(seed), size, largest)
    assert top <= 0 and left <= 0 and bottom >= size[0] and right >= size[1]
    height, width = bottom - top, right - left
    assert height <= round(largest * size[0]) and width <= round(largest * size[1])
    # Both sides have the same factor, up to rounding to whole pixels.
    assert abs(height / size[0] - width / size[1]) <= 0.5 / size[0] + 0.5 / size[1] + 1e-9


def test_zoomed_out_image_reaches_every_corner_of_the_canvas():
    canvases = np.array([windows.zoom_out(np.random.default_rng(seed), (4, 4), 4.0) for seed in range(400)])
    assert canvases.min() == -12 and canvases.max() == 16
    factors = (canvases[:, 2] - canvases[:, 0]) / 4
    assert factors.min() == 1 and factors.max() == 4 and 2.3 < factors.mean() < 2.7


@pytest.mark.parametrize("least", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("canvas", [(0, 0, *SIZE), (-20, -40, 160, 200)])
def test_patch_meets_its_overlap_constraint(monkeypatch, least, canvas):
    monkeypatch.setattr(windows, "CONSTRAINTS", (windows.WHOLE, least))
    met = 0
    for seed in range(60):
        window = windows.crop(np.random.default_rng(seed), canvas, SIZE, OBJECTS)
        if window != canvas:
            met += 1
            # The crowd does not count, because it is as large as the image.
            assert overlap(np.array([window]), OBJECTS["boxes"][:2]).max() >= least
    assert met or (least == 0.9 and canvas != (0, 0, *SIZE)), "some patch meets the constraint"


@settings(max_examples=30)
@given(seeds)
def test_patches_follow_the_paper(seed):
    canvas = (-20, -40, 160, 200)
    patches = windows.draw_patches(np.random.default_rng(seed), canvas)
    assert 0 < len(patches) <= 50 and patches.dtype == int
    assert (patches[:, :2] >= canvas[:2]).all() and (patches[:, 2:] <= canvas[2:]).all()
    height, width = (patches[:, 2:] - patches[:, :2]).T
    share = area(patches) / (180 * 240)
    assert (share > 0.09).all() and (share <= 1).all()  # the patch has whole pixels
    assert (height / width > 0.48).all() and (height / width < 2.08).all()


def test_patches_cover_all_places_of_the_image():
    patches = np.concatenate([windows.draw_patches(np.random.default_rng(seed), (0, 0, 40, 40)) for seed in range(50)])
    for low, high in (patches[:, ::2].T, patches[:, 1::2].T):
        smaller = high - low < 40
        assert low[smaller].min() == 0 and high[smaller].max() == 40
    middle = (patches[:, :2] + patches[:, 2:]).mean(0) / 2
    np.testing.assert_allclose(middle, 20, atol=1)


def test_constraint_that_no_patch_can_meet_ends():
    """No patch overlaps a one-pixel object by a tenth. An image with only a crowd has no object to overlap."""
    for made in (make([[3, 3, 4, 4]]), make([]), make([[0, 0, *SIZE]], crowd=[1])):
        found = {windows.crop(np.random.default_rng(seed), (0, 0, *SIZE), SIZE, made) for seed in range(60)}
        assert (0, 0, *SIZE) in found and len(found) > 10, "the whole image or an unconstrained patch"


def test_tiny_images_have_windows():
    for size in ((1, 1), (1, 40), (3, 2)):
        for seed in range(20):
            window = windows.crop(np.random.default_rng(seed), (0, 0, *size), size, make([[0, 0, 1, 1]]))
            assert window[2] > window[0] and window[3] > window[1]


@settings(max_examples=60)
@given(seeds)
def test_patch_shows_a_part_of_the_image(seed):
    augment = get_config().data.augment
    augment.update(zoom_out=(1.0, 6.0), iou_crop=True)
    top, left, bottom, right = windows.draw_window(np.random.default_rng(seed), SIZE, make([]), augment)
    assert min(bottom, SIZE[0]) > max(top, 0) and min(right, SIZE[1]) > max(left, 0)


def test_window_without_augmentation_is_the_whole_image():
    augment = get_config().data.augment
    assert windows.draw_window(np.random.default_rng(0), SIZE, OBJECTS, augment) == (0, 0, *SIZE)
    augment.zoom_out = (0.3, 3.0)
    whole = [
        windows.draw_window(np.random.default_rng(seed), SIZE, OBJECTS, augment) == (0, 0, *SIZE) for seed in range(400)
    ]
    assert np.mean(whole) == pytest.approx(0.7, abs=0.08)


def test_centre_on_a_border_belongs_to_one_of_two_neighbours():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 8]])
    np.testing.assert_array_equal(windows.have_centre(boxes, (0, 5, 10, 20)), [True, True, False])
    np.testing.assert_array_equal(windows.have_centre(boxes, (0, 0, 10, 5)), [False, False, True])
