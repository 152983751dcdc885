"""Masks are read in all COCO formats, and other values raise an error."""

import tracemalloc

import numpy as np
import pytest
from faster_coco_eval.core import mask as run_lengths
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from errors import UserError
from input_pipeline.annotations import masks
from input_pipeline.masks import Mask, bound
from tests.input_pipeline.datasets.test_detection_folders import COUNTS, HEIGHT, WIDTH, fill, square
from tests.input_pipeline.test_masks import whole


def test_mask_is_equal_in_all_coco_formats():
    mask = fill(2, 3, 7, 5)
    size = (HEIGHT, WIDTH)
    polygon = masks.encode_mask([square(2, 3, 7, 5)], size)
    lengths = masks.encode_mask({"size": list(size), "counts": COUNTS}, size)
    text = masks.encode_mask({"size": list(size), "counts": lengths.decode()}, size)
    np.testing.assert_array_equal(whole(masks.decode_masks([polygon, lengths, text], size), size), [mask] * 3)
    assert masks.encode_mask([[1, 2, 3, 4]], size) == masks.encode_mask((), size) == b""


@given(arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 6))))
def test_masks_are_decoded_to_cropped_pixels_and_encoded_from_them(mask):
    """COCO's own tool gives the same text for empty masks, for the first pixel, and for runs that cross columns."""
    text = run_lengths.encode(np.asfortranarray(mask, np.uint8))["counts"]
    (decoded,) = masks.decode_masks([text], mask.shape)
    np.testing.assert_array_equal(whole([decoded], mask.shape), [mask])
    assert masks.encode_pixels(decoded, mask.shape) == text
    assert masks.encode_pixels(Mask(mask), mask.shape) == text
    (top, left), (height, width) = decoded.corner, decoded.pixels.shape
    assert not mask.any() or bound(mask) == (top, left, top + height, left + width)


@pytest.mark.parametrize("counts", [[9], [-1, HEIGHT * WIDTH + 1], "Q", "d03~", "0o1", "\ud800", "", None, 7])
def test_run_lengths_that_do_not_fill_the_image_are_not_decoded(counts):
    """A decoder may wait forever for the end of a mask that is too short."""
    with pytest.raises(UserError, match="cannot be decoded"):
        masks.encode_mask({"size": [HEIGHT, WIDTH], "counts": counts}, (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "segmentation", [5, [5], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, 1e9]], [[1, 2, 3, 4, 5, "6"]]]
)
def test_values_that_are_not_masks_raise_an_error(segmentation):
    with pytest.raises(UserError, match="neither polygons"):
        masks.encode_mask(segmentation, (HEIGHT, WIDTH))


def test_masks_of_a_large_image_are_not_decoded_at_full_size():
    """A thousand objects of an image of 4000x6000 pixels would be 24 GB."""
    size, pixels = (4000, 6000), np.ones((6, 5), bool)
    pixels[0, 0] = False
    tracemalloc.start()
    try:
        texts = [masks.encode_pixels(Mask(pixels, (3994, left)), size) for left in range(0, 5000, 5)]
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    areas = [masks.measure_area({"size": list(size), "counts": text}) for text in texts]
    assert areas == [29] * 1000


def test_area_is_the_number_of_pixels():
    text = masks.encode_mask([square(2, 3, 7, 5)], (HEIGHT, WIDTH))
    assert masks.measure_area({"size": [HEIGHT, WIDTH], "counts": text}) == 10
