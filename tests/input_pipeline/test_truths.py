"""Kinds of ground truth: what they ask for, and the fields that do not go with them."""

import numpy as np
import pytest

from configs.common import get_config
from errors import UserError
from input_pipeline.batch import IGNORE, blank, check_batch, stack
from input_pipeline.truths import make_truth


@pytest.mark.parametrize(
    ("truth", "field", "value"),
    [
        *(("label", field, 0.5) for field in ("mosaic", "mixup", "copy_paste")),
        ("label", "zoom_out", (0.5, 4.0)),
        ("label", "iou_crop", True),
        ("boxes", "elastic", (1.0, 8.0)),
        ("boxes", "scale", (2.0, 1.0)),
    ],
)
def test_an_augmentation_that_cannot_be_is_one_clear_line(truth, field, value):
    data = get_config().data
    make_truth((truth,), data)
    data.augment[field] = value
    with pytest.raises(UserError, match=f"config.data.augment.{field}=") as caught:
        make_truth((truth,), data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("truth", "fields", "name"),
    [
        ("label", dict(margin=64), "margin"),
        ("label", dict(image_size=(0, 8)), "image_size"),
        ("boxes", dict(margin=4), "margin"),
        ("boxes", dict(border="mirror"), "border"),
        ("boxes", dict(weight_map=(10.0, 5.0)), "weight_map"),
        ("boxes", dict(shortest=(1333, 800)), "shortest"),
    ],
)
def test_mistakes_are_one_clear_line(truth, fields, name):
    data = get_config().data
    data.update(fields)
    with pytest.raises(UserError, match=f"config.data.{name}=") as caught:
        make_truth((truth,), data)
    assert "\n" not in str(caught.value)


def test_labels_have_margins_and_mirrors():
    data = get_config().data
    data.update(margin=4, border="mirror", weight_map=(10.0, 5.0))
    truth = make_truth(("label",), data)
    assert truth.keys == ("label", "weight_map") and truth.asks == ("label", "instances")


def test_pasting_objects_asks_for_their_masks():
    data = get_config().data
    assert make_truth(("boxes",), data).asks == ("boxes",)
    data.augment.copy_paste = 0.5
    truth = make_truth(("boxes",), data)
    assert truth.asks == ("boxes", "masks") and "masks" not in truth.keys


@pytest.mark.parametrize("need", ["label", "boxes"])
def test_an_image_without_ground_truth_is_viewed_as_blank(need):
    truth = make_truth((need,), get_config().data)
    view = truth.view({"image": np.zeros((10, 12, 3), np.uint8)}, np.eye(3), (16, 16))
    empty = truth.blank((16, 16))
    assert view.keys() == empty.keys() == set(truth.keys)
    for key, values in view.items():
        np.testing.assert_array_equal(values, empty[key])
    check_batch(stack([blank((16, 16), view)] * 2), truth.keys)
    assert (view["label"] == IGNORE).all() if need == "label" else not view["valid"].any()
