"""For every metric, scores of a sample equal those of data with each image repeated as often as in the sample."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.metrics.average_precision import AveragePrecision
from experiments.metrics.boundary import BoundaryIoU
from experiments.metrics.confusion import Confusion
from experiments.metrics.mask_precision import MaskPrecision
from experiments.metrics.partition import Partition
from tests.experiments.metrics.test_average_precision import STYLES
from tests.experiments.metrics.test_mask_precision import random_images

NAMES = ("cat", "dog", "owl")


def assert_equals_repeated_images(metric, parts, weights):
    """Compare metric.resample with a new metric that gets each image as often as its weight says."""
    found = metric.resample(parts, weights)
    for row, counts in enumerate(weights):
        repeated = metric.__class__(*metric.made_with)
        for place, part in enumerate(np.repeat(np.arange(len(parts)), counts)):
            repeated.add(parts[part], place)
        wanted = repeated.compute()
        for name, values in found.items():
            np.testing.assert_allclose(values[row], wanted[name], rtol=1e-12, atol=1e-12, err_msg=name)
    return found


def make(kind, *arguments):
    metric = kind(*arguments)
    metric.made_with = arguments
    return metric


def draw_weights(rng, images, samples=3):
    weights = rng.multinomial(images, [1 / images] * images, samples)
    weights[0] = 1
    return weights


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4))
@pytest.mark.parametrize("kind", [Confusion, BoundaryIoU])
def test_label_scores_equal_repeated_images(kind, seed, classes):
    rng = np.random.default_rng(seed)
    metric = make(kind, tuple("abcd"[:classes]))
    parts = []
    for _ in range(5):
        true = rng.choice([*range(classes), 255], (9, 11)).astype(np.uint8)
        predicted = np.where(rng.random(true.shape) < 0.7, true % 255, rng.integers(0, 2, true.shape)).astype(np.uint8)
        parts.append(metric.measure({"label": predicted}, {"label": true}))
    found = assert_equals_repeated_images(metric, parts, draw_weights(rng, 5))
    assert found.keys() == metric.compute().keys()


def test_class_absent_from_a_sample_is_not_in_its_mean():
    metric = make(Confusion, ("a", "b"))
    parts = [[[0, 0, 4]], [[0, 0, 1], [1, 1, 1], [1, 0, 2]]]
    found = assert_equals_repeated_images(metric, parts, np.array([[2, 0], [1, 1]]))
    assert found["mIoU"][0] == 1 and np.isnan(found["IoU/b"][0]) and found["IoU/b"][1] == 1 / 3


def test_partition_scores_equal_repeated_images():
    rng = np.random.default_rng(3)
    metric = make(Partition, ("border", "cell"))
    parts = [
        metric.measure(
            {
                "label": (inside := rng.random((12, 12)) > 0.3).astype(np.uint8),
                "probability": np.stack([1 - inside, inside], -1),
            },
            {"label": np.full((12, 12), index > 0, np.uint8)},  # the first image has no segment
        )
        for index in range(4)
    ]
    found = assert_equals_repeated_images(metric, parts, draw_weights(rng, 4))
    assert found.keys() == metric.compute().keys()
    assert np.isnan(metric.resample(parts, np.array([[4, 0, 0, 0]]))["Rand"])


def box_parts(rng, images, classes=3, objects=4, detections=8):
    """Return records of boxes with crowds and difficult objects. Boxes lie on a coarse grid, so overlaps often tie."""
    metric = AveragePrecision(NAMES, STYLES)
    parts = []
    for _ in range(images):
        corners = rng.integers(0, 6, (objects, 2)) * 5
        boxes = np.concatenate([corners, corners + rng.integers(2, 5, (objects, 2)) * 5], -1).astype(np.float64)
        own = rng.integers(0, objects, detections)
        found = boxes[own] + rng.integers(-1, 2, (detections, 4)) * rng.choice([0, 2, 5], (detections, 1))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        label = rng.integers(0, classes, objects)
        truth = {
            "boxes": boxes,
            "classes": label,
            "crowd": rng.random(objects) < 0.15,
            "difficult": rng.random(objects) < 0.15,
            "area": (boxes[:, 2:] - boxes[:, :2]).prod(-1),
        }
        of = np.where(rng.random(detections) < 0.8, label[own], rng.integers(0, classes, detections))
        # Scores are unique, because equal scores of a repeated image would not be adjacent.
        scores = rng.permutation(10**6)[:detections] / 10**6
        parts.append(metric.measure({"boxes": found, "classes": of, "scores": scores}, truth))
    return parts


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), most=st.sampled_from([2, 100]))
def test_box_scores_equal_repeated_images(seed, most):
    rng = np.random.default_rng(seed)
    metric = make(AveragePrecision, NAMES, ("coco", "voc07", "voc12"), most)
    found = assert_equals_repeated_images(metric, box_parts(rng, 6), draw_weights(rng, 6))
    assert {"AP", "AP50", "AP75", f"AR{most}", "AP/cat", "AP50/owl", "mAP_voc07", "AP_voc12/dog"} <= found.keys()


def test_mask_and_boundary_scores_equal_repeated_images():
    metric = make(MaskPrecision, NAMES, ("coco_masks", "coco_boundaries"))
    parts = [metric.measure(*image) for image in random_images(7, 5)]
    found = assert_equals_repeated_images(metric, parts, draw_weights(np.random.default_rng(1), 5))
    assert {"mask_AP", "boundary_AP", "mask_AP50/cat"} <= found.keys()


def test_samples_without_objects_or_detections_equal_repeated_images():
    metric = make(AveragePrecision, NAMES, ("coco", "voc07", "voc12"))
    alone = [0, 10.0, 10.0, 30.0, 30.0, 0, 0, 400.0]
    parts = [{"objects": [alone], "detections": []}, {"objects": [], "detections": [[1, 0.5, 0.0, 0.0, 9.0, 9.0]]}]
    found = assert_equals_repeated_images(metric, parts, np.array([[1, 1], [0, 2], [2, 0]]))
    assert found["AP"][[0, 2]].tolist() == [0, 0] and np.isnan(found["AP"][1])


@pytest.mark.slow
def test_resampling_5000_images_1000_times_takes_less_than_a_minute():
    rng = np.random.default_rng(0)
    metric = AveragePrecision(tuple(map(str, range(80))), ("coco",))
    parts = box_parts(rng, 5000, classes=80, objects=7, detections=100)
    weights = rng.multinomial(5000, [1 / 5000] * 5000, 1000)
    began = time.perf_counter()
    scores = metric.resample(parts, weights)["AP"]
    seconds = time.perf_counter() - began
    print(f"{seconds:.1f} s")
    assert scores.shape == (1000,) and 0 < scores.std() < 0.01
    assert seconds < 60
