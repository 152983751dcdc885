import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import common
from experiments.tasks import make_task, segmentation

CLASSES = ("a", "b", "c")


class Given(nnx.Module):
    """A model whose logits are given: it looks at nothing."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))

    def __call__(self, images, *, train, rngs=None):
        return self.logits[...]


def make(smoothing=0.0):
    config = common.get_config()
    config.task.label_smoothing = smoothing
    return make_task(config, CLASSES)


def make_batch(label, mask=None):
    label = np.asarray(label, np.uint8)
    mask = np.ones(len(label), bool) if mask is None else np.asarray(mask)
    return {"image": np.zeros((*label.shape, 3), np.uint8), "label": label, "example_mask": mask}


def test_cross_entropy_by_hand():
    logits = np.log(np.array([[[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]]]))
    (total, weight), logs = make().loss(Given(logits), make_batch([[[0, 1]]]), train=True, rngs=None)
    assert float(total) == pytest.approx(-np.log(0.7) - np.log(0.1), rel=1e-5)
    assert float(weight) == 2.0
    assert [float(part) for part in logs["pixel_accuracy"]] == [1.0, 2.0]


def test_label_smoothing_by_hand():
    logits = np.log(np.array([[[[0.7, 0.2, 0.1]]]]))
    (total, _), _ = make(smoothing=0.3).loss(Given(logits), make_batch([[[0]]]), train=True, rngs=None)
    assert float(total) == pytest.approx(-(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1)), rel=1e-5)


def test_ignored_pixels_and_padding_examples_count_nowhere_and_get_no_gradient():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 4, 3))
    label = rng.integers(0, 3, (3, 4, 4))
    label[0, :2] = 255
    batch, task = make_batch(label, [True, False, True]), make()

    def total(logits):
        return task.loss(Given(logits), batch, train=True, rngs=None)[0]

    (loss, weight), gradient = total(logits), jax.grad(lambda logits: total(logits)[0])(jnp.asarray(logits))
    assert float(weight) == 8 + 16
    counted = np.array(label != 255) & np.array([True, False, True])[:, None, None]
    np.testing.assert_array_equal(np.abs(gradient).sum(-1) > 0, counted)
    changed = np.where(counted[..., None], logits, 50.0)
    assert float(total(changed)[0]) == pytest.approx(float(loss), rel=1e-6)


def test_nothing_to_count_is_finite():
    (total, weight), _ = make().loss(Given(np.zeros((1, 2, 2, 3))), make_batch([[[255, 255]] * 2]), True, None)
    assert (float(total), float(weight)) == (0.0, 0.0)


def test_smaller_logits_answer_for_the_centre_of_the_label():
    label = np.full((1, 6, 6), 2)
    label[0, 2:4, 1:5] = 1
    logits = np.zeros((1, 2, 4, 3))
    logits[..., 1] = 5.0
    task, batch = make(), make_batch(label)
    _, logs = task.loss(Given(logits), batch, train=False, rngs=None)
    assert [float(part) for part in logs["pixel_accuracy"]] == [8.0, 8.0]
    predictions = task.predict(Given(logits), batch)
    assert np.asarray(task.measure(predictions, batch))[0, 1, 1] == 8


@pytest.mark.parametrize("size", [(40, 24), (7, 90), (1, 1)])
def test_restore_samples_at_the_original_pixel_centres(size):
    """A ramp of coordinates on the canvas must come back as the coordinates of the original's pixel centres."""
    height, width = 32, 48
    to_original = np.array([[size[1] / width, 0, 0], [0, size[0] / height, 0]], np.float32)
    y, x = np.mgrid[:height, :width] + 0.5
    restored = segmentation.restore(np.stack([x, y], -1).astype(np.float32), to_original, size)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.stack([columns * width / size[1], rows * height / size[0]], -1)
    clipped = np.clip(inside, 0.5, (width - 0.5, height - 0.5))  # beyond the last centres the border repeats
    np.testing.assert_allclose(restored, clipped, atol=0.05)


def test_writes_the_classes_at_the_images_size(tmp_path):
    image = np.zeros((20, 10, 3), np.uint8)
    probability = np.zeros((8, 8, 3), np.float32)
    probability[:, :4, 1], probability[:, 4:, 2] = 1, 1
    to_original = np.array([[10 / 8, 0, 0], [0, 20 / 8, 0]], np.float32)
    mask, overlay = make().write(tmp_path, "x", image, {"probability": probability}, to_original)
    label = np.asarray(Image.open(mask))
    np.testing.assert_array_equal(label, np.repeat([[1] * 5 + [2] * 5], 20, axis=0))
    assert cv2.imread(str(overlay)).shape == (20, 10, 3)


def test_predictions_are_probabilities_and_their_largest():
    logits = np.random.default_rng(0).normal(size=(2, 3, 3, 3))
    predictions = make().predict(Given(logits), make_batch(np.zeros((2, 3, 3))))
    np.testing.assert_allclose(np.sum(predictions["probability"], -1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(predictions["label"], logits.argmax(-1))
    assert predictions["label"].dtype == np.uint8
