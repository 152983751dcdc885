"""Mosaic, mixup and copy-paste equal images computed by hand."""

import numpy as np
import pytest

from input_pipeline.augment import geometry, mixtures
from input_pipeline.augment.mixtures import DrawnExample
from input_pipeline.masks import Mask, bound, collect
from tests.input_pipeline.test_masks import whole
from tests.input_pipeline.test_objects import make


def paint(size, boxes, grey=0, **fields) -> DrawnExample:
    """Paint a grey image. Its objects are rectangles with masks."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    image = np.full((*size, 3), grey, np.uint8)
    return DrawnExample(image, make(boxes, masks=collect(map(Mask, masks)), **fields), size, geometry.IDENTITY)


def test_mosaic_has_four_quadrants():
    sizes = [(4, 3), (4, 7), (6, 3), (6, 7)]
    flags = [dict(crowd=[i == 1], difficult=[i == 2], area=[i]) for i in range(4)]
    parts = [paint(size, [[1, 0, 3, 2]], grey=10 * i, classes=[i], **flags[i]) for i, size in enumerate(sizes)]
    parts[0] = parts[0]._replace(matrix=geometry.scaling(2, 2), original=(40, 30))
    stitched = mixtures.mosaic(parts)
    expected = np.zeros((10, 10))
    expected[:4, 3:], expected[4:, :3], expected[4:, 3:] = 10, 20, 30
    np.testing.assert_array_equal(stitched.image, expected[..., None].repeat(3, -1))
    np.testing.assert_array_equal(stitched.objects["boxes"], [[1, 0, 3, 2], [1, 3, 3, 5], [5, 0, 7, 2], [5, 3, 7, 5]])
    for box, mask in zip(
        stitched.objects["boxes"].astype(int), whole(stitched.objects["masks"], (10, 10)), strict=True
    ):
        np.testing.assert_array_equal(bound(mask), box)
        assert mask.sum() == 4
    np.testing.assert_array_equal(stitched.objects["classes"], range(4))
    np.testing.assert_array_equal(stitched.objects["crowd"], [False, True, False, False])
    np.testing.assert_array_equal(stitched.objects["difficult"], [False, False, True, False])
    np.testing.assert_array_equal(stitched.objects["area"], range(4))
    np.testing.assert_array_equal(stitched.matrix, parts[0].matrix)
    assert stitched.original == (40, 30)
    assert parts[3].objects["boxes"].tolist() == [[1, 0, 3, 2]], "the arguments are not changed"


def test_mosaic_supports_boxes_without_masks():
    parts = [paint((2, 2), [[0, 0, 1, 1]] * count) for count in (0, 2, 0, 1)]
    for part in parts:
        del part.objects["masks"]
    assert mixtures.mosaic(parts).objects["boxes"].tolist() == [[0, 2, 1, 3], [0, 2, 1, 3], [2, 2, 3, 3]]


def test_mixup_averages_two_images_and_keeps_the_objects_of_both():
    one, other = paint((4, 5), [[0, 0, 2, 2]], 200, crowd=[1]), paint((4, 5), [[1, 1, 4, 5], [0, 0, 1, 1]], 101)
    mixed = mixtures.mixup(one, other, 0.25)
    assert (mixed.image == round(0.25 * 200 + 0.75 * 101)).all() and mixed.image.dtype == np.uint8
    np.testing.assert_array_equal(mixed.objects["boxes"], [[0, 0, 2, 2], [1, 1, 4, 5], [0, 0, 1, 1]])
    np.testing.assert_array_equal(mixed.objects["crowd"], [True, False, False])
    assert whole(mixed.objects["masks"], (4, 5)).sum((1, 2)).tolist() == [4, 12, 1]
    np.testing.assert_array_equal(mixtures.mixup(one, other, 1.0).image, one.image)


def test_pasted_objects_cover_the_objects_below():
    """The paste covers the right half of a 4x8 object, a corner of another, nothing of a third, and all of a fourth."""
    below = paint((12, 16), [[0, 0, 4, 8], [3, 3, 6, 6], [8, 10, 12, 16], [1, 5, 3, 7]], 50, difficult=[1, 0, 0, 0])
    below.objects["boxes"][2] += 0.25  # this box does not lie on whole pixels
    donor = paint((12, 16), [[0, 4, 4, 9], [6, 0, 8, 2]], 90, classes=[7, 8])
    pasted = mixtures.copy_paste(below, donor, np.array([True, False]), 0.1)
    seen = np.full((12, 16), 50)
    seen[0:4, 4:9] = 90
    np.testing.assert_array_equal(pasted.image[..., 0], seen)
    expected = [[0, 0, 4, 4], [3, 3, 6, 6], [8.25, 10.25, 12.25, 16.25], [0, 4, 4, 9]]
    np.testing.assert_array_equal(pasted.objects["boxes"], expected)
    np.testing.assert_array_equal(pasted.objects["classes"], [0, 1, 2, 7])
    np.testing.assert_array_equal(pasted.objects["difficult"], [True, False, False, False])
    masks = whole(pasted.objects["masks"], (12, 16))
    np.testing.assert_array_equal(masks.sum((1, 2)), [16, 7, 24, 20])
    assert not (masks[:3] & masks[3]).any()
    assert whole(below.objects["masks"], (12, 16))[0].sum() == 32 and (below.image == 50).all(), (
        "the arguments are not changed"
    )


@pytest.mark.parametrize(("least", "kept"), [(0.0, True), (0.25, True), (0.26, False)])
def test_objects_with_too_few_visible_pixels_are_dropped(least, kept):
    below, donor = paint((4, 8), [[0, 0, 2, 8]]), paint((4, 8), [[0, 2, 4, 8]])
    pasted = mixtures.copy_paste(below, donor, np.array([True]), least)
    assert pasted.objects["boxes"].tolist() == [[0, 0, 2, 2]] * kept + [[0, 2, 4, 8]]


def test_covered_objects_are_dropped():
    below, donor = paint((4, 8), [[1, 2, 2, 4]]), paint((4, 8), [[0, 2, 4, 8]])
    pasted = mixtures.copy_paste(below, donor, np.array([True]), 0.0)
    assert pasted.objects["boxes"].tolist() == [[0, 2, 4, 8]]


def test_crowds_and_objects_without_a_visible_pixel_are_not_pasted():
    donor = paint((4, 8), [[0, 0, 2, 2], [2, 2, 2, 2]], 90, crowd=[1, 0])
    below = paint((4, 8), [[0, 0, 2, 3]], 50, crowd=[1])
    pasted = mixtures.copy_paste(below, donor, np.array([True, True]), 0.1)
    assert (pasted.image == 50).all()
    np.testing.assert_array_equal(pasted.objects["boxes"], [[0, 0, 2, 3]])
    assert pasted.objects["crowd"].tolist() == [True]


def test_pasting_works_without_pasted_objects_or_objects_below():
    empty, full = paint((4, 8), [], 50), paint((4, 8), [[0, 0, 2, 2]], 90)
    pasted = mixtures.copy_paste(full, empty, np.zeros(0, bool), 0.1)
    assert (pasted.image == 90).all() and len(pasted.objects["boxes"]) == 1
    pasted = mixtures.copy_paste(empty, full, np.array([True]), 0.1)
    assert pasted.objects["boxes"].tolist() == [[0, 0, 2, 2]] and (pasted.image == 90).sum() == 12
