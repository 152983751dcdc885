import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.metrics import confusion
from experiments.metrics.confusion import Confusion

count = jax.jit(confusion.count, static_argnums=3)


def oracle(label, prediction, mask, classes):
    counts = np.zeros((len(label), classes, classes), np.int64)
    for image, (truth, guess) in enumerate(zip(label, prediction, strict=True)):
        for t, p in zip(truth.ravel(), guess.ravel(), strict=True):
            if mask[image] and t != 255:
                counts[image, t, p] += 1
    return counts


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ignored=st.floats(0, 1), real=st.integers(0, 3))
def test_counts_equal_a_loop_over_pixels(seed, ignored, real):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (3, 5, 7)).astype(np.uint8)
    label[rng.random(label.shape) < ignored] = 255
    prediction = rng.integers(0, 4, label.shape).astype(np.uint8)
    mask = np.arange(3) < real
    np.testing.assert_array_equal(count(label, prediction, mask, 4), oracle(label, prediction, mask, 4))


def test_known_scores():
    # Truth 0 0 1 1, prediction 0 1 1 1: class 0 has 1 of 2, class 1 has 2 of 3; class 2 is nowhere and in no mean.
    label = np.array([[[0, 0], [1, 1]]], np.uint8)
    prediction = np.array([[[0, 1], [1, 1]]], np.uint8)
    scores = Confusion.empty(("a", "b", "c")).merge(count(label, prediction, np.array([True]), 3)).compute()
    assert scores["IoU/a"] == 1 / 2
    assert scores["IoU/b"] == 2 / 3
    assert np.isnan(scores["IoU/c"])
    assert scores["mIoU"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["pixel_accuracy"] == 3 / 4
    assert scores["Dice/a"] == pytest.approx(2 / 3)
    assert scores["Dice"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_a_class_predicted_but_absent_from_the_truth_counts_as_zero():
    scores = Confusion.empty(("a", "b")).merge(np.array([[3, 1], [0, 0]])).compute()
    assert scores["IoU/b"] == 0.0
    assert scores["mIoU"] == pytest.approx(3 / 8)


def test_no_pixel_gives_nan_and_no_warning(recwarn):
    scores = Confusion.empty(("a", "b")).compute()
    assert np.isnan(scores["mIoU"]) and np.isnan(scores["pixel_accuracy"])
    assert not recwarn


def test_billions_of_pixels_stay_exact():
    batch = np.full((1, 2, 2), 2**30, np.int32)
    total = Confusion.empty(("a", "b"))
    for _ in range(5):
        total = total.merge(batch)
    assert total.counts.sum() == 4 * 5 * 2**30
    assert total.compute()["pixel_accuracy"] == 0.5


def test_records_add_up_to_the_scores():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (6, 3, 3))
    records = [confusion.image_record(image) for image in counts]
    hit, labelled, predicted = (
        np.sum([row[name] for row in records], axis=0) for name in ("intersection", "labelled", "predicted")
    )
    scores = Confusion.empty(("a", "b", "c")).merge(counts).compute()
    assert scores["mIoU"] == pytest.approx(np.mean(hit / (labelled + predicted - hit)))
