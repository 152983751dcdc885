"""The last stages of R-CNN store the same examples as plain loops, and their solutions give scores and boxes."""

import jax
import numpy as np
import pytest

from configs import common, detectors
from experiments.tasks import registry
from models.detection.regions import RegionModel
from models.ops import coding
from tests.experiments.tasks.scenes import CLASSES, SIZE, area, iou, make_batch, overlap, random_batch
from tests.experiments.tasks.test_fast_rcnn import add_proposals

WIDTH = 3


@RegionModel.register
class Network:
    """A network whose features of a region are the corners of its box. Its fc7 is their sum."""

    def features(self, images, *, train):
        return {1: images}

    def describe(self, features, regions):
        return regions, regions.sum(-1, keepdims=True)


def make_task(name, **fields):
    config = common.get_config()
    detectors.use_fast_rcnn(config)
    getattr(detectors, f"use_{name}")(config)
    config.task.update(fields)
    return registry.make_task(config, CLASSES)


def describe(task, batch):
    return jax.tree.map(np.asarray, jax.jit(lambda batch: task.describe(Network(), batch))(batch))


@pytest.fixture(scope="module")
def batch():
    return add_proposals(random_batch(np.random.default_rng(3)))


def test_svm_examples_equal_loops(batch):
    task = make_task("svms", use_difficult=False)
    found, kept = describe(task, batch)
    positives, negatives = 0, 0
    for row in range(len(kept)):
        learned = np.asarray(jax.jit(task.learnable)(batch))[row]
        own = [(box, batch["classes"][row, i]) for i, box in enumerate(batch["boxes"][row]) if learned[i]]
        there = batch["proposal_mask"][row] & batch["example_mask"][row]
        own += [(box, -1) for box in batch["proposals"][row][there]]
        assert kept[row].sum() == len(own)
        for place, (box, positive) in zip(np.flatnonzero(kept[row]), own, strict=True):
            np.testing.assert_allclose(found["features"][row, place], box.sum(), rtol=1e-5)
            assert found["positive"][row, place] == positive
            for number in range(len(CLASSES)):
                near = False
                for i in np.flatnonzero(batch["valid"][row] & (batch["classes"][row] == number)):
                    other = batch["boxes"][row, i]
                    if batch["crowd"][row, i]:
                        near |= overlap(box, other) >= 0.5 * area(box)
                    else:
                        near |= iou(box, other) >= 0.3
                assert found["negative"][row, place, number] == (not near)
                negatives += not near
            positives += positive >= 0
    assert positives > 3 and negatives > 30 and not kept[4].any(), "row 4 is padding"


def test_regression_examples_equal_loops(batch):
    task = make_task("box_regression", regression_iou=0.4)
    found, kept = describe(task, batch)
    count = 0
    for row in range(len(kept)):
        learned = np.flatnonzero(np.asarray(jax.jit(task.learnable)(batch))[row])
        for place, box in enumerate(batch["proposals"][row]):
            overlaps = [iou(box, batch["boxes"][row, i]) for i in learned]
            wanted = bool(batch["proposal_mask"][row, place]) and max(overlaps, default=0) > 0.4
            assert kept[row, place] == wanted
            if wanted:
                owner = learned[np.argmax(overlaps)]
                decoded = coding.decode(found["targets"][row, place], box, variances=(0.1, 0.1, 0.2, 0.2))
                np.testing.assert_allclose(decoded, batch["boxes"][row, owner], atol=1e-3)
                assert found["class"][row, place] == batch["classes"][row, owner]
                np.testing.assert_array_equal(found["features"][row, place], box)
                count += 1
    assert count > 3


def test_stored_examples_are_finite_without_objects_or_proposals():
    batch = make_batch([], [((0, 0, *SIZE), 0, "c")], [((5, 5, 5, 5), 1, "")])
    batch |= {"proposals": np.zeros((3, 4, 4), np.float32), "proposal_mask": np.ones((3, 4), bool)}
    for name, rows in (("svms", 13), ("box_regression", 0)):
        found, kept = describe(make_task(name), batch)
        assert kept.sum() == rows and all(np.isfinite(x).all() for x in found.values())


def test_scores_come_from_margins_and_boxes_from_class_offsets(batch):
    task = make_task("svms")
    regions = batch["proposals"][:1, :2]
    outputs = {
        "regions": regions,
        "region_mask": np.array([[True, False]]),
        "logits": np.array([[[0.0, -1, 0, 2], [0, 9, 9, 9]]], np.float32),
        "offsets": np.zeros((1, 2, 4, 4), np.float32),
    }
    outputs["offsets"][0, 0, 3, 1] = 1.0  # the third class moves right by a tenth of the width
    boxes, scores = jax.tree.map(np.asarray, task.decode(outputs, SIZE))
    np.testing.assert_allclose(scores[0, 0], [1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-2))], rtol=1e-6)
    assert np.isneginf(scores[0, 1]).all()
    np.testing.assert_allclose(boxes[0, 0, :2], np.tile(regions[0, 0], (2, 1)), atol=1e-4)
    shift = 0.1 * (regions[0, 0, 3] - regions[0, 0, 1])
    np.testing.assert_allclose(boxes[0, 0, 2], regions[0, 0] + [0, shift, 0, shift], atol=1e-4)


def test_solutions_have_the_shapes_of_the_head_and_fit_the_examples():
    """The features determine the class, so positives have margins above 0 and negatives below 0."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(-1, 3, 60)
    features = (np.eye(4)[numbers] + rng.normal(0, 0.05, (60, 4))).astype(np.float32)
    block = {"features": features, "positive": numbers, "negative": numbers[:, None] != np.arange(3)}
    solved, logs = make_task("svms", cost=10.0).solve([block])
    kernel, bias = solved["box_head/margins/kernel"], solved["box_head/margins/bias"]
    assert (
        kernel.shape == (1, 1, 4, 3) and bias.shape == (3,) and logs.keys() == {f"objective/{name}" for name in CLASSES}
    )
    margins = features @ kernel[0, 0] + bias
    assert (margins[block["negative"]] < 0).all() and (margins[np.arange(3) == numbers[:, None]] > 0).all()
    targets = np.stack([features[:, 0], features[:, 1], 0 * features[:, 0], 0 * features[:, 0]], -1)
    block = {"features": features, "class": np.maximum(numbers, 0), "targets": targets}
    solved, logs = make_task("box_regression", ridge=1e-3).solve([block])
    kernel, bias = solved["box_head/offsets/kernel"], solved["box_head/offsets/bias"]
    assert kernel.shape == (1, 1, 4, 12) and bias.shape == (12,) and min(logs.values()) > 0.99
    offsets = (features @ kernel[0, 0] + bias).reshape(-1, 4, 3).swapaxes(1, 2)  # the layout of models.heads.box
    own = offsets[np.arange(60), np.maximum(numbers, 0)]
    np.testing.assert_allclose(own, targets, atol=0.02)
