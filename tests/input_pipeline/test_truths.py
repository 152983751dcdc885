"""Each kind of ground truth requires its data, and fields that do not fit it raise an error."""

import numpy as np
import pytest

from configs.common import get_config
from errors import UserError
from input_pipeline.batch import IGNORE, OBJECTS, PROPOSALS, blank, check_batch, stack
from input_pipeline.loader import draw_row
from input_pipeline.truths import make_truth
from tests.input_pipeline.test_loader import Rectangles


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
def test_unsupported_augmentation_raises_a_one_line_error(truth, field, value):
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
def test_invalid_fields_raise_a_one_line_error(truth, fields, name):
    data = get_config().data
    data.update(fields)
    with pytest.raises(UserError, match=f"config.data.{name}=") as caught:
        make_truth((truth,), data)
    assert "\n" not in str(caught.value)


def test_labels_support_margins_and_mirrored_views():
    data = get_config().data
    data.update(margin=4, border="mirror", weight_map=(10.0, 5.0))
    truth = make_truth(("label",), data)
    assert truth.keys == ("label", "weight_map") and truth.source_keys == ("label", "instances")


def test_pasting_objects_requires_their_masks():
    data = get_config().data
    assert make_truth(("boxes",), data).source_keys == ("boxes",)
    data.augment.copy_paste = 0.5
    truth = make_truth(("boxes",), data)
    assert truth.source_keys == ("boxes", "masks") and "masks" not in truth.keys


@pytest.mark.parametrize("need", ["label", "boxes"])
def test_image_without_ground_truth_gives_a_blank_view(need):
    truth = make_truth((need,), get_config().data)
    view = truth.view({"image": np.zeros((10, 12, 3), np.uint8)}, np.eye(3), (16, 16))
    empty = truth.blank((16, 16))
    assert view.keys() == empty.keys() == set(truth.keys)
    for key, values in view.items():
        np.testing.assert_array_equal(values, empty[key])
    check_batch(stack([blank((16, 16), view)] * 2), truth.keys)
    assert (view["label"] == IGNORE).all() if need == "label" else not view["valid"].any()


class Proposed(Rectangles):
    """Images with proposals that start with `first`, followed by the boxes of their objects."""

    first = ()

    def __getitem__(self, i):
        example = super().__getitem__(i)
        example["crowd"][:] = False
        first = np.reshape(self.first, (-1, 4))
        return example | {"proposals": np.concatenate([first, example["boxes"]]).astype(np.float32)}


def make_proposals(max_proposals=5, fit="stretch", **augment):
    data = get_config().data
    data.update(image_size=(48, 56), canvases=((48, 56),), fit=fit, max_boxes=6, max_proposals=max_proposals)
    data.augment.update(dict(min_visible=0.0) | augment)
    return data, make_truth(("boxes", "proposals"), data)


@pytest.mark.parametrize(
    "augment",
    [
        dict(flip=1.0, vertical_flip=1.0),
        dict(flip=0.5, scale=(0.5, 3.0), aspect=1.5, translate=0.3, rotation=30.0),
        dict(zoom_out=(0.7, 3.0), fit="letterbox"),
        dict(scale=(1.5, 2.5), fit="crop"),
        dict(zoom_out=(0.5, 2.0), iou_crop=True),
    ],
    ids=lambda augment: "-".join(augment),
)
def test_proposals_follow_every_random_map_as_boxes_do(augment):
    data, truth = make_proposals(**augment)
    source, dropped, seen = Proposed([(40, 60), (60, 40)]), 0, 0
    assert truth.source_keys == ("boxes", "proposals") and truth.keys == (*OBJECTS, *PROPOSALS)
    for seed in range(30):
        row = draw_row(source, truth, seed % 2, data.augment, np.random.default_rng(seed))
        check_batch(stack([row]), truth.keys)
        boxes, proposals = row["boxes"][row["valid"]], row["proposals"][row["proposal_mask"]]
        if data.augment.iou_crop:  # drops objects by their centres, but keeps proposals
            assert all((proposals == box).all(1).any() for box in boxes) and len(proposals) >= len(boxes)
        else:
            np.testing.assert_array_equal(boxes, proposals)
        assert not row["proposals"][~row["proposal_mask"]].any()
        dropped, seen = dropped + 3 - len(proposals), seen + len(proposals)
    assert seen > 30 and (dropped > 0 or "flip" in augment or data.augment.zoom_out[0] == 0.7)


def test_best_visible_proposals_fill_the_row():
    source = Proposed([(40, 60)], [[0, 0, 40, 60], [1, 2, 3, 4]])
    source.first = [[5, 55, 9, 60], [0, 30, 20, 60], [30, 0, 40, 30], [0, 0, 10, 10]]
    _, truth = make_proposals(max_proposals=3)
    crop = truth.view(source[0], np.eye(3), (20, 50))  # the top left
    np.testing.assert_array_equal(crop["proposals"], [[0, 30, 20, 50], [0, 0, 10, 10], [0, 0, 20, 50]])
    assert crop["proposal_mask"].all()
    _, truth = make_proposals(max_proposals=8)
    crop = truth.view(source[0], np.eye(3), (20, 50))
    assert crop["proposal_mask"].tolist() == [True] * 4 + [False] * 4 and not crop["proposals"][4:].any()


@pytest.mark.parametrize("field", ["mosaic", "mixup", "copy_paste"])
def test_images_mixed_from_several_examples_have_no_proposals(field):
    with pytest.raises(UserError, match=f"config.data.augment.{field}=0.5 does not work with proposals") as caught:
        make_proposals(**{field: 0.5})
    assert "\n" not in str(caught.value)


def test_image_without_ground_truth_keeps_its_proposals():
    _, truth = make_proposals()
    example = {"image": np.zeros((10, 12, 3), np.uint8), "proposals": np.array([[1, 2, 3, 4]], np.float32)}
    view, empty = truth.view(example, np.diag([2.0, 3.0, 1.0]), (48, 56)), truth.blank((48, 56))
    np.testing.assert_array_equal(view["proposals"][0], [3, 4, 9, 8])
    assert view["proposal_mask"].sum() == 1 and not empty["proposal_mask"].any()
    for key in OBJECTS:
        np.testing.assert_array_equal(view[key], empty[key])
    check_batch(stack([blank((48, 56), view), blank((48, 56), empty)]), truth.keys)
