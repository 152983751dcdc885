"""`shapes` is the same on every platform, and its annotations agree with each other."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from configs.common import get_config
from input_pipeline.datasets import shapes
from input_pipeline.preparation import prepare

GOLDEN = "2e0eb22d2f3f0b07068d684f9583302c55bb7944dfaf3b0e6f0d29ca4bd2e63e"  # changes only with VERSION


def draw(i: int):
    return shapes.draw_example(np.random.default_rng((0, i)))


def test_pixels_equal_the_golden_hash():
    digest = hashlib.sha256()
    for i in range(8):
        for array in draw(i):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest() == GOLDEN


@pytest.mark.parametrize("i", range(12))
def test_annotations_agree_with_each_other(i):
    image, instances, labels = draw(i)
    assert image.shape == (*instances.shape, 3) and all(80 <= length <= 112 for length in instances.shape)
    boxes = shapes.find_boxes(instances)
    assert len(boxes) == len(labels) >= 1
    assert set(np.unique(instances)) - {0} == set(range(1, len(labels) + 1))
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        mask = instances == number
        inside = np.zeros_like(mask)
        inside[top:bottom, left:right] = True
        assert not (mask & ~inside).any()
        for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):
            assert edge.any()


def test_every_class_is_drawn():
    labels = np.concatenate([draw(i)[2] for i in range(40)])
    assert set(labels) == set(range(len(shapes.FIGURES)))


@pytest.mark.parametrize("figure", shapes.FIGURES)
def test_figures_have_the_area_of_their_formula(figure):
    """The areas match the formulas for figures that are completely inside a large image."""
    areas = []
    for seed in range(8):
        mask = shapes._draw_figure(np.random.default_rng(seed), figure, 400, 400)
        generator = np.random.default_rng(seed)
        radius = int(generator.integers(16 * 16, 33 * 16)) / 16
        if not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()):
            areas.append(mask.sum() / radius**2)
    star = 10 * 0.5 * 0.42 * np.sin(np.pi / 5)
    expected = {"circle": np.pi, "ring": np.pi * (1 - (9 / 16) ** 2), "square": 2, "triangle": 3**1.5 / 4, "star": star}
    np.testing.assert_allclose(areas, expected[figure], rtol=0.03)


def test_prepared_copy_contains_the_drawn_examples(monkeypatch, tmp_path):
    monkeypatch.setattr(shapes, "EXAMPLES", {"train": 3, "validation": 2})
    folder = prepare("shapes", shapes.SHAPES.preparation, tmp_path, get_config().data.folder)
    import tensorflow_datasets as tfds

    skip = tfds.decode.SkipDecoding()
    decoders = {key: skip for key in ("image", "segmentation_mask", "instance_mask")}
    records = tfds.builder_from_directory(folder).as_data_source("validation", decoders=decoders)
    assert len(records) == 2
    image, instances, labels = shapes.draw_example(np.random.default_rng((1, 1)))
    record = records[1]

    def decode(key):
        return np.asarray(Image.open(io.BytesIO(record[key])))

    np.testing.assert_array_equal(decode("image"), image)
    np.testing.assert_array_equal(decode("instance_mask"), instances)
    np.testing.assert_array_equal(decode("segmentation_mask"), np.array([0, *(labels + 1)])[instances])
    np.testing.assert_array_equal(record["objects"]["label"], labels)
    boxes = record["objects"]["bbox"] * np.tile(instances.shape, 2)
    np.testing.assert_allclose(boxes, shapes.find_boxes(instances), atol=1e-3)
    assert not list(tmp_path.glob(".shapes-*")), "the temporary folder is gone"
