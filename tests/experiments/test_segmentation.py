import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import common, segmenters
from errors import UserError
from experiments.tasks.registry import make_task
from input_pipeline import transforms

CLASSES = ("a", "b", "c")


class Given(nnx.Module):
    """A model whose logits are given: it looks at nothing."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))

    def __call__(self, images, *, train, rngs=None):
        return self.logits[...]


def make(margin=0, **fields):
    config = common.get_config()
    segmenters.use_pixel_losses(config)
    config.task.update(fields)
    config.data.margin = margin
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
    (total, _), _ = make(label_smoothing=0.3).loss(Given(logits), make_batch([[[0]]]), train=True, rngs=None)
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


def test_class_weights_and_the_weight_map_multiply():
    logits = np.log(np.array([[[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]]]))
    batch = make_batch([[[0, 1]]]) | {"weight_map": np.array([[[3.0, 0.5]]], np.float32)}
    (total, weight), _ = make(class_weights=(2.0, 4.0, 1.0)).loss(Given(logits), batch, train=True, rngs=None)
    assert float(total) == pytest.approx(-6 * np.log(0.7) - 2 * np.log(0.1), rel=1e-5)
    assert float(weight) == 8.0


def test_several_losses_add_up_and_are_logged():
    logits = np.random.default_rng(0).normal(size=(2, 3, 3, 3))
    batch = make_batch(np.random.default_rng(1).integers(0, 3, (2, 3, 3)))
    task = make(losses=(("cross_entropy", 1.0), ("dice", 0.5)))
    (total, weight), logs = task.loss(Given(logits), batch, train=True, rngs=None)
    assert logs.keys() == {"cross_entropy", "dice", "pixel_accuracy"}
    assert float(total) == pytest.approx(float(logs["cross_entropy"][0] + 0.5 * logs["dice"][0]), rel=1e-6)
    assert float(weight) == float(logs["dice"][1]) == 18


def test_smaller_logits_answer_for_the_centre_of_the_label():
    label = np.full((1, 6, 6), 2)
    label[0, 1:5, 1:5] = 1
    logits = np.zeros((1, 4, 4, 3))
    logits[..., 1] = 5.0
    _, logs = make(margin=1).loss(Given(logits), make_batch(label), train=False, rngs=None)
    assert [float(part) for part in logs["pixel_accuracy"]] == [16.0, 16.0]
    with pytest.raises(UserError, match=r"config.data.margin=0: .* the margin must be 1"):
        make().loss(Given(logits), make_batch(label), train=False, rngs=None)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (dict(metrics=("confusion", "iou")), "task.metrics"),
        (dict(losses=dict(crossentropy=dict(factor=1.0))), "task.losses.crossentropy"),
        (dict(class_weights=(1.0, 2.0)), "task.class_weights"),
    ],
)
def test_mistakes_are_one_clear_line(fields, name):
    with pytest.raises(UserError, match=f"config.{name}") as caught:
        make(**fields)
    assert "\n" not in str(caught.value)


def probabilities(seed, *shape):
    return np.random.default_rng(seed).dirichlet(np.ones(3), shape).astype(np.float32)


def assemble(size, views):
    mosaic = make().assembly(size)
    for probability, canvas, matrix in views:
        mosaic.add({"probability": probability}, canvas, matrix)
    return mosaic.result()


@pytest.mark.parametrize("size", [(40, 24), (7, 90), (1, 1)])
def test_a_prediction_comes_back_at_the_original_pixel_centres(size):
    """A ramp of coordinates on the canvas must come back as the coordinates of the original's pixel centres."""
    height, width = canvas = (32, 48)
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = np.stack([x, y, np.zeros(canvas)], -1).astype(np.float32)
    restored = assemble(size, [(ramp, canvas, transforms.fit(size, canvas, "stretch"))])["probability"][..., :2]
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.stack([columns * width / size[1], rows * height / size[0]], -1)
    clipped = np.clip(inside, 0.5, (width - 0.5, height - 0.5))  # beyond the last centres the border repeats
    np.testing.assert_allclose(restored, clipped, atol=1e-4)


def test_a_letterbox_gives_back_its_image_alone():
    canvas, size = (16, 16), (8, 16)
    probability = probabilities(0, *canvas)
    restored = assemble(size, [(probability, canvas, transforms.fit(size, canvas, "letterbox"))])
    np.testing.assert_array_equal(restored["probability"], probability[4:12])
    np.testing.assert_array_equal(restored["label"], probability[4:12].argmax(-1))


def test_a_mirrored_view_is_mirrored_back():
    canvas = (5, 8)
    probability = probabilities(0, *canvas)
    mirror = transforms.about((4, 2.5), transforms.scaling(-1, 1))
    restored = assemble(canvas, [(probability[:, ::-1], canvas, mirror), (probability, canvas, transforms.IDENTITY)])
    np.testing.assert_allclose(restored["probability"], probability, atol=1e-6)


def test_windows_are_averaged_where_they_overlap():
    """Each pixel's mean over the windows, whose answers are smaller than their canvases, by plain loops."""
    size, canvas, margin = (9, 13), (8, 8), 1
    total, count, views = np.zeros((*size, 3)), np.zeros((*size, 1)), []
    for number, (top, left) in enumerate([(0, 0), (0, 6), (0, 8), (4, 0), (4, 6), (4, 8)]):
        probability = probabilities(number, 6, 6)
        views.append((probability, canvas, transforms.translation(margin - left, margin - top)))
        for row in range(6):
            for column in range(6):
                if top + row < size[0] and left + column < size[1]:
                    total[top + row, left + column] += probability[row, column]
                    count[top + row, left + column] += 1
    np.testing.assert_allclose(assemble(size, views)["probability"], total / count, rtol=1e-5)


def test_writes_the_classes_at_the_images_size(tmp_path):
    image, label = np.zeros((20, 10, 3), np.uint8), np.repeat([[1] * 5 + [2] * 5], 20, axis=0).astype(np.uint8)
    output = make().output(tmp_path, [], ())
    mask, overlay = output.add(tmp_path / "a.png", "x", image, {"label": label})
    assert output.close() == []
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), label)
    assert cv2.imread(str(overlay)).shape == (20, 10, 3)


def test_draws_images_of_any_size():
    examples = [
        {"image": np.zeros((*size, 3), np.uint8), "label": np.zeros(size, np.uint8)} for size in [(20, 30), (40, 10)]
    ]
    picture = make().draw(examples, examples)
    assert picture.dtype == np.uint8 and picture.ndim == 3


def test_predictions_are_probabilities():
    logits = np.random.default_rng(0).normal(size=(2, 3, 3, 3))
    predictions = make().predict(Given(logits), make_batch(np.zeros((2, 3, 3))))
    np.testing.assert_allclose(np.sum(predictions["probability"], -1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(np.argmax(predictions["probability"], -1), logits.argmax(-1))
