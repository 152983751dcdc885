"""Masks in all of COCO's forms, and texts that are none."""

import numpy as np
import pytest

from errors import UserError
from input_pipeline.annotations import masks
from tests.input_pipeline.datasets.test_detection_folders import COUNTS, HEIGHT, WIDTH, fill, square


def test_a_mask_is_the_same_in_all_of_cocos_forms():
    mask = fill(2, 3, 7, 5)
    size = (HEIGHT, WIDTH)
    polygon = masks.encode_mask([square(2, 3, 7, 5)], size)
    lengths = masks.encode_mask({"size": list(size), "counts": COUNTS}, size)
    text = masks.encode_mask({"size": list(size), "counts": lengths.decode()}, size)
    np.testing.assert_array_equal(masks.decode_masks([polygon, lengths, text], size), [mask] * 3)
    assert masks.encode_mask([[1, 2, 3, 4]], size) == masks.encode_mask((), size) == b""


@pytest.mark.parametrize("counts", [[9], [-1, HEIGHT * WIDTH + 1], "Q", "d03~", "0o1", "\ud800", "", None, 7])
def test_runs_that_do_not_make_up_the_image_come_to_no_decoder(counts):
    """A decoder may wait forever for the end of a mask that is too short."""
    with pytest.raises(UserError, match="cannot be decoded"):
        masks.encode_mask({"size": [HEIGHT, WIDTH], "counts": counts}, (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "segmentation", [5, [5], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, 1e9]], [[1, 2, 3, 4, 5, "6"]]]
)
def test_what_is_no_mask(segmentation):
    with pytest.raises(UserError, match="neither polygons"):
        masks.encode_mask(segmentation, (HEIGHT, WIDTH))


def test_an_area_is_its_pixels():
    text = masks.encode_mask([square(2, 3, 7, 5)], (HEIGHT, WIDTH))
    assert masks.measure_area({"size": [HEIGHT, WIDTH], "counts": text}) == 10
