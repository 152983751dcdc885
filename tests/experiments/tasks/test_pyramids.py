"""Detectors on a pyramid train every parameter and overfit two images, with their debug configs."""

import importlib

import jax
import numpy as np
import pytest
from flax import nnx

from tests.experiments.tasks.overfitting import OBJECTS, overfit
from tests.experiments.tasks.scenes import iou

TWO_STAGES = ("faster_rcnn_shapes", "mask_rcnn_shapes")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["retinanet_shapes", "fcos_shapes", *TWO_STAGES])
def overfitted(request):
    config = importlib.import_module(f"configs.{request.param}").get_config("debug")
    config.model.backbone.width = 32
    if request.param not in TWO_STAGES:
        config.model.norm = "none"  # at stride 64 there is one pixel, and groups of one value would be 0
    return overfit(config, steps=250 if request.param in TWO_STAGES else 120)


def test_every_parameter_has_a_gradient(overfitted):
    for name, gradient in overfitted.first.items():
        assert np.isfinite(gradient).all() and np.any(gradient != 0), name


def test_two_images_are_overfitted(overfitted):
    assert overfitted.losses[-1] < 0.3 * overfitted.losses[0]
    task, batch = overfitted.task, overfitted.batch
    outputs = nnx.jit(lambda model: task.apply(model, batch, train=False, rngs=None))(overfitted.model)
    prediction = jax.tree.map(np.asarray, jax.jit(task.predict)(outputs, batch))
    for row, objects in enumerate(OBJECTS):
        # These detections have the best scores.
        classes, boxes = (prediction[name][row][: len(objects)] for name in ("classes", "boxes"))
        assert prediction["scores"][row][len(objects) - 1] > 0.4
        assert sorted(classes.tolist()) == sorted(index for _, index in objects)
        for box, index in objects:
            assert max(iou(found, box) for found in boxes[classes == index]) > 0.7
        if "masks" in prediction:  # the rectangles fill their boxes
            inside = prediction["masks"][row][: len(objects), 4:-4, 4:-4]
            assert (inside > 0.5).mean((1, 2)).min() > 0.9
