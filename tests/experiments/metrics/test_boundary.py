import json
import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.metrics.boundary import BoundaryIoU, near_contour
from experiments.metrics.confusion import Confusion


def masks(seed, shape, classes, ignored):
    """Draw patches of 2 x 2 pixels, so that objects have an interior, and single ignored pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (2, -(-shape[0] // 2), -(-shape[1] // 2))).astype(np.uint8)
    label, prediction = coarse.repeat(2, 1).repeat(2, 2)[:, : shape[0], : shape[1]]
    return {"label": prediction}, {"label": np.where(rng.random(shape) < ignored, np.uint8(255), label)}


def oracle_near(mask, distance):
    """Return the pixels of a bool mask whose square contains a pixel outside the mask or outside the image."""
    height, width = mask.shape
    near = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        for v in range(y - distance, y + distance + 1):
            for u in range(x - distance, x + distance + 1):
                near[y, x] |= not (0 <= v < height and 0 <= u < width and mask[v, u])
    return near


def measured(metric, *images):
    for prediction, truth in images:
        metric.add(json.loads(json.dumps(metric.measure(prediction, truth))), 1)
    return metric


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ignored=st.sampled_from([0, 0.1, 1]),
    share=st.sampled_from([0.01, 0.2, 0.35]),
)
def test_counts_equal_a_loop_over_classes_and_pixels(seed, shape, ignored, share):
    (prediction, truth), other = masks(seed, shape, 3, ignored), masks(seed + 1, (6, 4), 2, 0)
    metric = measured(BoundaryIoU(("a", "b", "c"), share), (prediction, truth))
    distance = max(1, round(share * math.hypot(*shape)))
    predicted = np.where(truth["label"] == 255, 255, prediction["label"])
    for index in range(3):
        near = [oracle_near(label == index, distance) for label in (truth["label"], predicted)]
        assert metric.counts[index].tolist() == [(near[0] & near[1]).sum(), (near[0] | near[1]).sum()]
    both, swapped = (
        measured(BoundaryIoU(("a", "b", "c"), share), *images)
        for images in (((prediction, truth), other), (other, (prediction, truth)))
    )
    np.testing.assert_array_equal(both.counts, swapped.counts)


def test_shifted_square_has_the_hand_computed_boundary_iou():
    # Class 1 is a square of 4 x 4 on 12 x 12. The distance is round(0.06 * 16.97) = 1, so its boundary is a ring of 12
    # pixels. The predicted ring is shifted right by one. The rings share 3 pixels in the top row and 3 in the bottom row,
    # and none in the other rows. Class 0 has a ring of 44 pixels at the border of the image, and a 6 x 6 ring of 20
    # around the square. The shifted 6 x 6 ring shares 5 pixels at the top and 5 at the bottom.
    truth, prediction = np.zeros((2, 12, 12), np.uint8)
    truth[4:8, 3:7] = 1
    prediction[4:8, 4:8] = 1
    metric = BoundaryIoU(("ground", "square"), 0.06)
    part = metric.measure({"label": prediction}, {"label": truth})
    assert part == [[0, 44 + 10, 44 + 30], [1, 6, 18]]
    metric.add(part, 0)
    scores = metric.compute()
    assert scores["boundary_IoU/square"] == pytest.approx(6 / 18)
    assert scores["boundary_IoU/ground"] == pytest.approx(54 / 74)
    assert scores["boundary_IoU"] == pytest.approx((6 / 18 + 54 / 74) / 2)


def test_near_contour_equals_repeated_erosion():
    # As in the paper, the mask is padded with zeros and eroded by 3 x 3, `distance` times.
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.standard_normal((40, 60, 4)).astype(np.float32), (0, 0), 4)
    label = noise.argmax(-1).astype(np.uint8)
    near = near_contour(label, 3)
    for index in range(4):
        mask = (label == index).astype(np.uint8)
        eroded = cv2.erode(np.pad(mask, 1), np.ones((3, 3), np.uint8), iterations=3)[1:-1, 1:-1]
        assert 0 < eroded.sum() < mask.sum()
        np.testing.assert_array_equal(near & (mask == 1), (mask - eroded) == 1)


@pytest.mark.parametrize("distance", [0.5, 2, 1e6])
def test_large_distance_gives_the_plain_iou(distance):
    image = masks(3, (13, 20), 4, 0.05)
    wide, plain = measured(BoundaryIoU(tuple("abcd"), distance), image), measured(Confusion(tuple("abcd")), image)
    ious = [plain.compute()[f"IoU/{name}"] for name in "abcd"]
    assert [wide.compute()[f"boundary_IoU/{name}"] for name in "abcd"] == ious
    assert wide.compute()["boundary_IoU"] == pytest.approx(plain.compute()["mIoU"])


def test_interior_of_an_object_does_not_hide_boundary_errors():
    truth, prediction = np.zeros((2, 200, 200), np.uint8)
    truth[20:180, 20:180] = 1
    prediction[24:176, 24:176] = 1
    image = {"label": prediction}, {"label": truth}
    assert measured(Confusion(("a", "b")), image).compute()["IoU/b"] > 0.9
    assert measured(BoundaryIoU(("a", "b"), 0.02), image).compute()["boundary_IoU/b"] < 0.35  # 2 of 6 pixels are shared


def test_predictions_at_ignored_pixels_have_no_effect():
    prediction, truth = masks(5, (16, 16), 3, 0.2)
    other = np.where(truth["label"] == 255, 2 - prediction["label"], prediction["label"])
    metric = BoundaryIoU(tuple("abc"), 0.1)
    assert metric.measure({"label": other}, truth) == metric.measure(prediction, truth)
    perfect = {"label": np.where(truth["label"] == 255, np.uint8(0), truth["label"])}
    assert measured(BoundaryIoU(tuple("abc"), 0.1), (perfect, truth)).compute()["boundary_IoU"] == 1


def test_absent_classes_are_nan_and_not_in_the_mean():
    scores = measured(BoundaryIoU(("a", "b", "c")), masks(0, (8, 8), 2, 0)).compute()
    assert np.isnan(scores["boundary_IoU/c"])
    assert scores["boundary_IoU"] == np.mean([scores["boundary_IoU/a"], scores["boundary_IoU/b"]])
    label = np.zeros((4, 4), np.uint8)
    assert measured(BoundaryIoU(("a", "b")), ({"label": label}, {"label": label + 1})).compute()["boundary_IoU"] == 0


def test_empty_metric_gives_nan_without_a_warning(recwarn):
    empty = BoundaryIoU(("a", "b"))
    ignored = masks(0, (6, 6), 2, 1)
    assert empty.measure(*ignored) == []
    for metric in (empty, measured(BoundaryIoU(("a", "b")), ignored)):
        assert list(metric.compute()) == ["boundary_IoU", "boundary_IoU/a", "boundary_IoU/b"]
        assert all(np.isnan(value) for value in metric.compute().values())
    assert not recwarn and empty.pictures() == {}
