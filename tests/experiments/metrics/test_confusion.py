import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.metrics.confusion import Confusion, class_scores


def maps(seed, classes, ignored, shape=(5, 7)):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape).astype(np.uint8)
    label[rng.random(shape) < ignored] = 255
    return {"label": rng.integers(0, classes, shape).astype(np.uint8)}, {"label": label}


def measured(class_names, *images):
    metric = Confusion(class_names)
    for prediction, truth in images:
        metric.add(json.loads(json.dumps(metric.measure(prediction, truth))), 0)
    return metric


def from_counts(class_names, counts):
    """Return a metric that has counted the cells [C,C] as one image."""
    metric = Confusion(class_names)
    metric.add([[t, p, int(pixels)] for (t, p), pixels in np.ndenumerate(counts)], 0)
    return metric


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ignored=st.floats(0, 1))
def test_counts_equal_a_loop_over_pixels(seed, ignored):
    images = [maps(seed, 4, ignored), maps(seed + 1, 3, ignored, (2, 9))]
    expected = np.zeros((4, 4), np.int64)
    for prediction, truth in images:
        for t, p in zip(truth["label"].ravel(), prediction["label"].ravel(), strict=True):
            if t != 255:
                expected[t, p] += 1
    for order in (images, images[::-1]):
        np.testing.assert_array_equal(measured(tuple("abcd"), *order).counts, expected)


def test_scores_equal_known_values():
    # The truth is 0 0 1 1, the prediction 0 1 1 1. Class 0 has 1 of 2, class 1 has 2 of 3. Class 2 is absent.
    label = {"label": np.array([[0, 0], [1, 1]], np.uint8)}
    prediction = {"label": np.array([[0, 1], [1, 1]], np.uint8)}
    metric = Confusion(("a", "b", "c"))
    part = metric.measure(prediction, label)
    assert part == [[0, 0, 1], [0, 1, 1], [1, 1, 2]]
    metric.add(part, 7)
    scores = metric.compute()
    assert scores["IoU/a"] == 1 / 2
    assert scores["IoU/b"] == 2 / 3
    assert np.isnan(scores["IoU/c"])
    assert scores["mIoU"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["pixel_accuracy"] == 3 / 4
    assert scores["Dice/a"] == pytest.approx(2 / 3)
    assert scores["Dice"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_scores_of_long_et_al_equal_hand_computed_values():
    # Class a has 8 pixels, of them 6 predicted as a, 1 as b and 1 as c. Class b has 2 pixels, 1 predicted as a and 1 as b.
    # Class c is not in the ground truth.
    scores = from_counts(("a", "b", "c"), [[6, 1, 1], [1, 1, 0], [0, 0, 0]]).compute()
    assert scores["accuracy/a"] == 6 / 8 and scores["accuracy/b"] == 1 / 2 and np.isnan(scores["accuracy/c"])
    assert scores["mean_accuracy"] == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert scores["IoU/a"] == 6 / 9 and scores["IoU/b"] == 1 / 3 and scores["IoU/c"] == 0
    assert scores["frequency_weighted_IoU"] == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 3)
    assert scores["mIoU"] == pytest.approx((6 / 9 + 1 / 3 + 0) / 3)


def test_absent_class_does_not_change_the_frequency_weighted_iou():
    scores = from_counts(("a", "b", "c"), [[6, 2, 0], [1, 1, 0], [0, 0, 0]]).compute()
    assert scores["frequency_weighted_IoU"] == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)


def test_class_predicted_but_absent_from_the_truth_has_iou_0():
    scores = from_counts(("a", "b"), [[3, 1], [0, 0]]).compute()
    assert scores["IoU/b"] == 0.0
    assert scores["mIoU"] == pytest.approx(3 / 8)


@pytest.mark.parametrize("images", [0, 1])
def test_scores_without_pixels_are_nan_without_a_warning(recwarn, images):
    ignored = {"label": np.zeros((2, 2), np.uint8)}, {"label": np.full((2, 2), 255, np.uint8)}
    scores = measured(("a", "b"), *[ignored] * images).compute()
    assert all(np.isnan(value) for value in scores.values())
    assert {"mIoU", "pixel_accuracy", "mean_accuracy", "frequency_weighted_IoU", "Dice"} <= set(scores)
    assert not recwarn


def test_counts_of_many_pixels_are_exact():
    metric = Confusion(("a", "b"))
    for _ in range(5):
        metric.add([[0, 0, 2**53], [1, 0, 1]], 0)
    assert metric.counts.tolist() == [[5 * 2**53, 0], [5, 0]]


def test_last_of_255_classes_is_counted():
    # 255 is the largest number of classes. The last one has index 254.
    last = {"label": np.full((2, 3), 254, np.uint8)}
    metric = measured(tuple(map(str, range(255))), (last, last))
    assert metric.counts[254, 254] == metric.counts.sum() == 6
    margins = np.diagonal(metric.counts), metric.counts.sum(1), metric.counts.sum(0)
    assert class_scores(*margins)["IoU"][254] == metric.compute()["mIoU"] == 1


def test_measuring_an_image_takes_milliseconds():
    image = maps(0, 11, 0.1, (360, 480))
    metric = Confusion(tuple("abcdefghijk"))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        metric.measure(*image)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.05  # 0.001 s on a quiet machine


def test_picture_changes_with_the_counts():
    right, wrong = (from_counts(("a", "b"), counts).pictures()["confusion"] for counts in ([[1, 0], [0, 1]], [[0, 1]]))
    assert right.dtype == np.uint8 and right.shape == wrong.shape and right.shape[2] == 3
    assert (right != wrong).any()
