"""The losses and predictions of the segmentation task."""

from functools import partial

import jax
import numpy as np
import pytest

from configs import common, segmenters
from errors import UserError
from experiments.tasks.registry import make_task
from tests.experiments.tasks.terms import summed

CLASSES = ("a", "b", "c")


def loss_of(task, logits, batch):
    return jax.jit(lambda logits, batch: summed(task.loss({"logits": logits}, batch)))(np.float32(logits), batch)


def make(margin=0, **fields):
    config = common.get_config()
    segmenters.use_pixel_losses(config)
    config.task.update(fields)
    config.data.margin = margin
    config.model.name = "unet"
    return make_task(config, CLASSES)


def make_batch(label, mask=None):
    label = np.asarray(label, np.uint8)
    mask = np.ones(len(label), bool) if mask is None else np.asarray(mask)
    return {"image": np.zeros((*label.shape, 3), np.uint8), "label": label, "example_mask": mask}


def test_cross_entropy_equals_a_hand_computed_value():
    logits = np.log(np.array([[[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]]]))
    (total, weight), logs = loss_of(make(), logits, make_batch([[[0, 1]]]))
    assert float(total) == pytest.approx(-np.log(0.7) - np.log(0.1), rel=1e-5)
    assert float(weight) == 2.0
    assert [float(part) for part in logs["pixel_accuracy"]] == [1.0, 2.0]


def test_label_smoothing_equals_a_hand_computed_value():
    logits = np.log(np.array([[[[0.7, 0.2, 0.1]]]]))
    (total, _), _ = loss_of(make(losses={"cross_entropy": {"label_smoothing": 0.3}}), logits, make_batch([[[0]]]))
    assert float(total) == pytest.approx(-(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1)), rel=1e-5)


def test_ignored_pixels_and_padding_do_not_count_and_have_no_gradient():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 4, 3))
    label = rng.integers(0, 3, (3, 4, 4))
    label[0, :2] = 255
    batch, task = make_batch(label, [True, False, True]), make()

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def total(logits, batch):
        (loss, weight), _ = summed(task.loss({"logits": logits}, batch))
        return loss, weight

    (loss, weight), gradient = total(np.float32(logits), batch)
    assert float(weight) == 8 + 16
    counted = np.array(label != 255) & np.array([True, False, True])[:, None, None]
    np.testing.assert_array_equal(np.abs(gradient).sum(-1) > 0, counted)
    changed = np.where(counted[..., None], logits, 50.0)
    assert float(total(np.float32(changed), batch)[0][0]) == pytest.approx(float(loss), rel=1e-6)


def test_a_batch_without_labels_has_a_finite_loss():
    (total, weight), _ = loss_of(make(), np.zeros((1, 2, 2, 3)), make_batch([[[255, 255]] * 2]))
    assert (float(total), float(weight)) == (0.0, 0.0)


def test_class_weights_and_the_weight_map_multiply():
    logits = np.log(np.array([[[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]]]))
    batch = make_batch([[[0, 1]]]) | {"weight_map": np.array([[[3.0, 0.5]]], np.float32)}
    (total, weight), _ = loss_of(make(class_weights=(2.0, 4.0, 1.0)), logits, batch)
    assert float(total) == pytest.approx(-6 * np.log(0.7) - 2 * np.log(0.1), rel=1e-5)
    assert float(weight) == 8.0


def test_several_losses_are_summed_and_logged():
    logits = np.random.default_rng(0).normal(size=(2, 3, 3, 3))
    batch = make_batch(np.random.default_rng(1).integers(0, 3, (2, 3, 3)))
    task = make(losses={"dice": {"factor": 0.5}})
    (total, weight), logs = loss_of(task, logits, batch)
    assert logs.keys() == {"cross_entropy", "dice", "pixel_accuracy"}
    assert float(total) == pytest.approx(float(logs["cross_entropy"][0] + 0.5 * logs["dice"][0]), rel=1e-6)
    assert float(weight) == float(logs["dice"][1]) == 18


def test_smaller_logits_are_compared_with_the_centre_of_the_label():
    label = np.full((1, 6, 6), 2)
    label[0, 1:5, 1:5] = 1
    logits = np.zeros((1, 4, 4, 3))
    logits[..., 1] = 5.0
    _, logs = loss_of(make(margin=1), logits, make_batch(label))
    assert [float(part) for part in logs["pixel_accuracy"]] == [16.0, 16.0]
    with pytest.raises(UserError, match=r"config.data.margin=0: .* the margin must be 1"):
        loss_of(make(), logits, make_batch(label))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (dict(losses=dict(crossentropy=dict(factor=1.0))), "task.losses.crossentropy"),
        (dict(class_weights=(1.0, 2.0)), "task.class_weights"),
    ],
)
def test_invalid_fields_raise_a_one_line_error(fields, name):
    with pytest.raises(UserError, match=f"config.{name}") as caught:
        make(**fields)
    assert "\n" not in str(caught.value)


def test_predictions_are_probabilities():
    logits = np.random.default_rng(0).normal(size=(2, 3, 3, 3))
    predictions = jax.jit(make().predict)({"logits": np.float32(logits)}, make_batch(np.zeros((2, 3, 3))))
    np.testing.assert_allclose(np.sum(predictions["probability"], -1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(np.argmax(predictions["probability"], -1), logits.argmax(-1))
