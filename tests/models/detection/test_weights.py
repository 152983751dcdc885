"""Every variable of a detector has a key in old and new weight files, and arrays are converted to our order."""

import functools

import numpy as np
import pytest
from flax import nnx

from errors import UserError
from experiments.run import state as states
from models.detection.weights import match_boxes, match_classes, order_anchors
from models.ops.anchors import pyramid
from tests import published

OLDER = {  # key of an older version: key of today
    "backbone.fpn.inner_blocks.1.weight": "backbone.fpn.inner_blocks.1.0.weight",
    "backbone.fpn.layer_blocks.2.bias": "backbone.fpn.layer_blocks.2.0.bias",
    "head.classification_head.conv.6.weight": "head.classification_head.conv.3.0.weight",
    "head.regression_head.conv.2.bias": "head.regression_head.conv.1.0.bias",
}


def blueprint(name, small=True, **fields):
    config = published.configure(name, small)
    config.model.update(fields)
    return states.blueprint(config, 80)


shared = functools.cache(blueprint)  # for tests that do not change the model


def paths_of(model):
    return {path for path, _ in nnx.to_flat_state(nnx.state(model))}


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])  # backbones have their own tests
@pytest.mark.parametrize("name", published.DETECTORS)
def test_every_variable_has_a_unique_key(name, small):
    model = shared(name, small)
    arrays, _, classes = model.pretrained(published.MARKS[name])
    assert set(arrays) == paths_of(model)
    keys = [key for key, _ in arrays.values()]
    assert len(set(keys)) == len(keys)
    own = {"box_head/logits", "box_head/offsets"} if name in published.TWO_STAGES else {"logits"}
    own |= {"mask_head/logits"} if name == "mask_rcnn" else set()
    assert {"/".join(path[:-1]).rstrip("_012345") for path in classes} == own


def test_older_files_map_to_the_same_variables():
    model = shared("retinanet", True)
    today = model.pretrained(published.MARKS["retinanet"]).arrays
    marks = [key for key in published.MARKS["retinanet"] if ".0.0." not in key]
    older = model.pretrained([*marks, "backbone.fpn.inner_blocks.0.weight"]).arrays
    assert today.keys() == older.keys()
    renamed = {older[path][0]: today[path][0] for path in today if older[path][0] != today[path][0]}
    assert OLDER.items() <= renamed.items() and len(renamed) == 2 * (2 * 3 + 2 * 4)


def test_older_two_stage_files_map_to_the_same_variables():
    model = shared("mask_rcnn", True)
    today = model.pretrained(published.MARKS["mask_rcnn"]).arrays
    older = ("rpn.head.conv.weight", "roi_heads.mask_head.mask_fcn1.weight", "backbone.fpn.inner_blocks.0.weight")
    older = model.pretrained([*older, published.BODY]).arrays
    assert today.keys() == older.keys()
    renamed = {older[path][0]: today[path][0] for path in today if older[path][0] != today[path][0]}
    assert renamed["roi_heads.mask_head.mask_fcn4.bias"] == "roi_heads.mask_head.3.0.bias"
    assert len(renamed) == 2 * (2 * 4 + 1 + 4)  # convolutions of the FPN, the RPN and the mask head


def test_faster_rcnn_file_fills_mask_rcnn_except_the_mask_head():
    model = shared("mask_rcnn", True)
    left = paths_of(model) - set(model.pretrained(published.MARKS["faster_rcnn"]).arrays)
    assert {path[0] for path in left} == {"mask_head"} and len(left) == 2 * (4 + 1 + 1)


def test_backbone_file_fills_only_the_backbone():
    for name, key in (("ssd300", "features.0.weight"), ("retinanet", "layer1.0.conv1.weight")):
        model = shared(name, True)
        arrays, unused, classes = model.pretrained([key, "classifier.6.weight", "fc.weight"])
        assert {path[0] for path in arrays} == {"backbone"} and not classes and len(unused) == 1
    assert {path[1] for path in arrays} == {"bottom_up"} and arrays[
        ("backbone", "bottom_up", "stem", "conv", "kernel")
    ][0] == "conv1.weight"


def test_box_and_class_outputs_are_reordered():
    shapes, inputs = 3, 2
    outputs = np.arange(4 * shapes)[:, None, None, None] + np.zeros((1, inputs, 3, 3))
    (kernel, bias) = match_boxes(("offsets",), "box", (2, 0, 1)).arrays.values()
    expected = [9, 8, 11, 10, 1, 0, 3, 2, 5, 4, 7, 6]  # (x, y, w, h) becomes (y, x, h, w); the shapes are 2, 0, 1
    assert kernel[0] == "box.weight" and bias[0] == "box.bias"
    np.testing.assert_array_equal(bias[1](np.arange(12)), expected)
    np.testing.assert_array_equal(kernel[1](outputs), np.broadcast_to(expected, (3, 3, inputs, 12)))
    weights = match_classes(("logits",), "class", (2, 0, 1), background=True)
    (_, convert) = weights.arrays["logits", "bias"]
    np.testing.assert_array_equal(convert(np.arange(15)), [10, 11, 12, 13, 14, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert weights.classes["logits", "kernel"] == (3, True)
    with pytest.raises(UserError, match="16 outputs are not those of 3 shapes in a cell"):
        convert(np.arange(16))


@pytest.mark.parametrize("ratios", [(2.0, 1.0, 0.5), (0.5, 1.0, 2.0), (1.0, 2.0, 0.5)])
@pytest.mark.parametrize("placement", ["centres", "corners"])
def test_each_anchor_gets_the_outputs_of_its_shape(placement, ratios):
    def sides(placement, ratios):
        (level,) = pyramid((64, 64), (8,), 4.0, 3, ratios, placement)
        return level[0, 0, :, 2:] - level[0, 0, :, :2]

    order = order_anchors(3, ratios, placement)
    assert sorted(order) == list(range(9))
    theirs = sides("corners", (2.0, 1.0, 0.5))[order]
    np.testing.assert_allclose(sides(placement, ratios), theirs, rtol=0.07)  # torchvision rounds sides to whole pixels


def test_ssd_warns_if_default_boxes_differ_from_the_file():
    """The file does not contain the places of its default boxes."""
    keys = published.MARKS["ssd300"]
    other = blueprint("ssd300", steps=(), sizes=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05))
    assert "model.steps=(8.0, 16.0, 32.0, 64.0, 100.0, 300.0)" in other.caution(keys)
    assert not other.caution(["features.0.weight"]) and not shared("ssd300", True).caution(keys)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("retinanet", dict(ratios=(3.0, 1.0, 0.5)), "model.octaves=3 and model.ratios"),
        ("retinanet", dict(octaves=2), "model.octaves=3"),
        ("retinanet", dict(norm="batch"), "model.norm='batch'"),
        ("retinanet", dict(backbone=dict(norm="batch")), "model.backbone.norm='none'"),
        ("fcos", dict(norm="batch"), "model.norm='batch'"),
        ("ssd300", dict(norm="batch"), "'none' for model.norm"),
        ("ssd300", dict(backbone=dict(norm="batch")), "'none' for model.norm and model.backbone.norm"),
    ],
)
def test_model_that_differs_from_the_file_raises_a_one_line_error(name, fields, words):
    with pytest.raises(UserError, match=words) as caught:
        blueprint(name, **fields).pretrained(published.MARKS[name])
    assert "\n" not in str(caught.value)
