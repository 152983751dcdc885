"""Pictures of a run's input show what the run reads."""

import numpy as np

from configs.common import get_config
from experiments import example_sheets
from experiments.example_sheets import as_example, draw_batch, draw_source
from experiments.results.registry import make_results
from input_pipeline import masks
from input_pipeline.loader import draw_row
from input_pipeline.truths import make_truth
from tests.experiments.test_detection import CLASSES, Scenes

SIZES = [(24, 24)] * 6
NEEDS = ("boxes", "masks")


def make(needs):
    config = get_config()
    config.data.update(max_boxes=5, image_size=(24, 24), mask_size=(24, 24))
    config.data.augment.flip = 0.0
    config.eval.metrics = ("confusion",) if needs == ("label",) else ("coco",)
    return config, make_truth(needs, config.data), make_results(needs, config.eval, CLASSES)


def test_row_without_augmentation_equals_the_example():
    config, truth, _ = make(NEEDS)
    source = Scenes(SIZES)
    for index in range(4):
        example = source[index]
        again = as_example(draw_row(source, truth, index, config.data.augment, np.random.default_rng(0)))
        np.testing.assert_array_equal(again["image"], example["image"])
        np.testing.assert_allclose(again["boxes"], example["boxes"], atol=1e-4)
        np.testing.assert_array_equal(again["classes"], example["classes"])
        whole = slice(0, 24), slice(0, 24)
        for mine, theirs in zip(again["masks"], example["masks"], strict=True):
            np.testing.assert_array_equal(masks.paint(mine, whole), masks.paint(theirs, whole))


def test_the_same_examples_are_drawn_as_read_and_as_augmented(tmp_path, monkeypatch):
    """At the size of the images, both pictures are equal without augmentation and different with it."""
    monkeypatch.setattr(example_sheets, "EXAMPLES", 4)
    config, truth, results = make(("boxes",))
    source = Scenes(SIZES)
    read, augmented = draw_source(tmp_path, results, source, truth, config.data, 0)
    assert (read.name, augmented.name) == ("examples.png", "augmented.png")
    assert read.read_bytes() == augmented.read_bytes()
    config.data.augment.flip = 1.0
    again, flipped = draw_source(tmp_path, results, source, truth, config.data, 0)
    assert again == read and flipped.name == "augmented-2.png" and flipped.read_bytes() != augmented.read_bytes()


def test_names_with_control_characters_are_drawn(monkeypatch):
    config, truth, results = make(("boxes",))
    source = Scenes(SIZES)
    monkeypatch.setattr(source, "name", lambda index: "a\nb\x1b[31m.png", raising=False)
    row = draw_row(source, truth, 1, config.data.augment, np.random.default_rng(0))
    batch = {name: np.stack([values] * 2) for name, values in row.items()}
    assert draw_batch(results, source, batch).ndim == 3
    assert example_sheets.caption(source, 1) == "1  a?b?[31m.png"
