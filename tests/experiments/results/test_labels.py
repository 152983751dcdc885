"""Label maps are merged over views at the size of the image, drawn, and written to files."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from configs import common
from errors import UserError
from experiments.pictures.labels import overlay as draw_overlay
from experiments.pictures.labels import turn_grey
from experiments.pictures.palette import palette
from experiments.results.labels import ProbabilityAssembly
from experiments.results.registry import make_results
from input_pipeline.augment import geometry
from input_pipeline.views import plan_views

CLASSES = ("background", "b", "c")


def make(**evaluation):
    config = common.get_config()
    config.eval.update(evaluation)
    return make_results(("label",), config.eval, CLASSES)


def probabilities(seed, *shape):
    return np.random.default_rng(seed).dirichlet(np.ones(3), shape).astype(np.float32)


def assemble(size, views):
    assembly = ProbabilityAssembly(size, len(CLASSES), [matrix for *_, matrix in views], keep=True)
    for probability, canvas, matrix in views:
        assembly.add({"probability": probability}, canvas, matrix)
    return assembly.result()


@pytest.mark.parametrize("size", [(40, 24), (7, 90), (1, 1)])
def test_prediction_is_resized_to_the_original_pixel_centres(size):
    """A ramp of coordinates on the canvas must become the coordinates of the pixel centres in the original image."""
    height, width = canvas = (32, 48)
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = np.stack([x, y, np.zeros(canvas)], -1).astype(np.float32)
    restored = assemble(size, [(ramp, canvas, geometry.fit(size, canvas, "stretch"))])["probability"][..., :2]
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.stack([columns * width / size[1], rows * height / size[0]], -1)
    clipped = np.clip(inside, 0.5, (width - 0.5, height - 0.5))  # beyond the last centres the border is repeated
    np.testing.assert_allclose(restored, clipped, atol=1e-4)


def test_letterbox_padding_is_removed():
    canvas, size = (16, 16), (8, 16)
    probability = probabilities(0, *canvas)
    restored = assemble(size, [(probability, canvas, geometry.fit(size, canvas, "letterbox"))])
    np.testing.assert_array_equal(restored["probability"], probability[4:12])
    np.testing.assert_array_equal(restored["label"], probability[4:12].argmax(-1))


def test_a_mirrored_view_is_mirrored_back():
    canvas = (5, 8)
    probability = probabilities(0, *canvas)
    mirror = geometry.about((4, 2.5), geometry.scaling(-1, 1))
    restored = assemble(canvas, [(probability[:, ::-1], canvas, mirror), (probability, canvas, geometry.IDENTITY)])
    np.testing.assert_allclose(restored["probability"], probability, atol=1e-6)


def test_windows_are_averaged_where_they_overlap():
    """The reference is the mean over windows per pixel, in plain loops. Predictions are smaller than canvases."""
    size, canvas, margin = (9, 13), (8, 8), 1
    total, count, views = np.zeros((*size, 3)), np.zeros((*size, 1)), []
    for number, (top, left) in enumerate([(0, 0), (0, 6), (0, 8), (4, 0), (4, 6), (4, 8)]):
        probability = probabilities(number, 6, 6)
        views.append((probability, canvas, geometry.translation(margin - left, margin - top)))
        for row in range(6):
            for column in range(6):
                if top + row < size[0] and left + column < size[1]:
                    total[top + row, left + column] += probability[row, column]
                    count[top + row, left + column] += 1
    np.testing.assert_allclose(assemble(size, views)["probability"], total / count, rtol=1e-5)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.5)])
def test_finished_rows_are_released_so_memory_does_not_grow(scales):
    """The label equals that of all views together. Only views that show one band of the image are in memory."""
    config, size, classes = common.get_config(), (4000, 64), 8
    config.data.update(canvases=((64, 64),), fit="crop", margin=0)
    config.eval.update(method="window", overlap=0.5, scales=scales, flip=True)
    views = plan_views(size, config.data, config.eval)
    matrices, generator = [view.matrix for view in views], np.random.default_rng(0)
    seeds = generator.integers(0, 2**31, len(views))

    def draw(number):
        return {"probability": np.random.default_rng(seeds[number]).random((64, 64, classes), np.float32)}

    found = []
    for given, keep in ((matrices, False), ((), True)):
        assembly = ProbabilityAssembly(size, classes, given, keep=keep)
        tracemalloc.start()
        for number, view in enumerate(views):
            assembly.add(draw(number), view.canvas, view.matrix)
        found.append((assembly.result(), tracemalloc.get_traced_memory()[1]))
        tracemalloc.stop()
    (early, little), (late, much) = found
    np.testing.assert_array_equal(early["label"], late["label"])
    np.testing.assert_array_equal(early["label"], late["probability"].argmax(-1))
    whole = np.prod(size) * classes * 4
    assert little < whole / 2 < whole < much
    mixed = ProbabilityAssembly(size, classes, matrices)
    for number in generator.permutation(len(views)):
        mixed.add(draw(number), views[number].canvas, views[number].matrix)
    assert (mixed.result()["label"] == early["label"]).mean() > 0.999, "only rounding depends on the order"


@pytest.mark.parametrize(("metrics", "kept"), [(("confusion",), False), (("confusion", "partition"), True)])
def test_probabilities_are_kept_for_the_metric_that_reads_them(metrics, kept):
    config = common.get_config()
    config.eval.update(metrics=metrics)
    assembly = make_results(("label",), config.eval, CLASSES[:2]).assembly((4, 4))
    assembly.add({"probability": probabilities(0, 4, 4)[..., :2]}, (4, 4), geometry.IDENTITY)
    assert ("probability" in assembly.result()) == kept


def test_class_maps_are_written_at_the_image_size(tmp_path):
    image, label = np.zeros((20, 10, 3), np.uint8), np.repeat([[1] * 5 + [2] * 5], 20, axis=0).astype(np.uint8)
    writer = make().writer(tmp_path, [], (), ())
    mask, overlay = writer.add(tmp_path / "a.png", "x", image, {"label": label})
    assert writer.close() == []
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), label)
    drawn = np.asarray(Image.open(overlay))
    np.testing.assert_array_equal(drawn[:20, :10], draw_overlay(image, label, 0))
    for index in range(3):  # the legend has the classes that occur, and room for their names
        assert (drawn[20:] == palette()[index]).all(-1).any() == (index > 0)
    assert drawn.shape[1] > 10 and (drawn[:20, 10:] == 255).all()


def test_examples_keep_their_aspect_ratio_and_a_grey_background():
    examples = [
        {"image": np.full((*size, 3), (10, 90 + size[0], 200), np.uint8), "label": np.zeros(size, np.uint8)}
        for size in [(20, 30), (40, 10)]
    ]
    picture = make().picture(examples, examples)
    assert picture.dtype == np.uint8 and picture.ndim == 3
    for example, shape in zip(examples, ((299, 448), (448, 112)), strict=True):
        for colour, count in ((example["image"][0, 0], 1), (turn_grey(example["image"][:1])[0, 0], 2)):
            assert (picture == colour).all(-1).sum() >= count * shape[0] * shape[1]


@pytest.mark.parametrize("size", [(20, 30), (500, 400)])
def test_an_example_has_an_image_and_two_label_maps_of_one_size(size):
    label = np.zeros(size, np.uint8)
    label[:, size[1] // 2 :] = 1
    example = {"image": np.full((*size, 3), 90, np.uint8), "label": label}
    tiles = make().tiles(example, {"label": 1 - label}, 100)
    assert {tile.shape for tile in tiles.values()} == {((67, 100, 3) if size[1] == 30 else (100, 80, 3))}
    assert (tiles["image"] == 90).all(), "only the image"
    # The left side of one map is the right side of the other. The border between them is elsewhere.
    np.testing.assert_array_equal(tiles["truth"][:, :30], tiles["prediction"][:, -30:])
    assert (tiles["truth"][:, :30] != tiles["prediction"][:, :30]).any()


@pytest.mark.parametrize("metrics", [(), ("confusion", "iou"), ("coco",), ("partition",)])
def test_unknown_score_of_labels_raises_a_one_line_error(metrics):
    with pytest.raises(UserError, match="config.eval.metrics") as caught:
        make(metrics=metrics)
    assert "\n" not in str(caught.value)
