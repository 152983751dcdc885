"""Evaluation of a model whose scores can be computed by hand, with its views, its windows and its memory."""

import io
import json
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import common, segmenters
from experiments.pictures.examples import read_examples
from experiments.results.registry import make_results
from experiments.run import sharding
from experiments.run import state as states
from experiments.run.evaluator import Evaluator, reduce_means, write_result
from experiments.run.inference import Inference, Interrupted
from experiments.tasks.base import Mean
from experiments.tasks.registry import make_task
from models import registry
from tests.processes import run_together

CLASSES = ("dark", "light")
TILES = {"image": 320, "truth": 320, "prediction": 320}


class Threshold(registry.Model):
    """A model that predicts whether the red of a pixel is above a parameter, except in `margin` pixels at each side."""

    produces = "pixel logits"

    def __init__(self, *, margin: int, num_classes: int, dtype: str, rngs: nnx.Rngs):
        self.level, self.margin = nnx.Param(jnp.zeros(1)), margin

    def __call__(self, images, *, train, rngs=None):
        cut = slice(self.margin, -self.margin or None)
        red = images[:, cut, cut, :1] - self.level[...]
        return jnp.concatenate([-5 * red, 5 * red], -1)


class Images:
    """Images of random dark and light blocks. The label is wrong in the first row."""

    class_names, fingerprint, dropped, absent = CLASSES, "", (), ()

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        light = np.random.default_rng(index).random(self.sizes[index]) < 0.5
        image = np.repeat(np.where(light, 200, 50)[..., None], 3, -1).astype(np.uint8)
        label = light.astype(np.uint8)
        label[0] = 1 - label[0]
        return {"image": image, "label": label}

    def name(self, index):
        return f"image_{index}"

    def size(self, index):
        return self.sizes[index]

    def image_id(self, index):
        return index + 1


class Bare(Images):
    """The same images without labels."""

    def __getitem__(self, index):
        return {"image": super().__getitem__(index)["image"]}


@pytest.fixture(autouse=True)
def threshold(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "threshold", f"{__name__}:Threshold")


def make(margin=0, canvases=((16, 16),), **evaluation):
    config = common.get_config()
    config.model.update(name="threshold", margin=margin, dtype="float32")
    segmenters.use_pixel_losses(config)
    config.data.update(canvases=canvases, image_size=canvases[0], margin=margin, fit="crop", border="mirror")
    config.eval.update(dict(batch_size=2, pictures=2) | evaluation)
    mesh = sharding.make_mesh(config.mesh)
    architecture, _, _ = states.describe(config, 2)
    task = make_task(config, CLASSES)
    results = make_results(task.needs, config.eval, CLASSES)
    return config, task, results, architecture, states.initialise(config, 2, seed=0), mesh


def evaluate(source, **fields):
    config, task, results, architecture, variables, mesh = make(**fields)
    return Evaluator(config, task, results, architecture, source, mesh)(variables)


@pytest.mark.parametrize(
    "fields",
    [
        dict(canvases=((16, 24),)),
        dict(canvases=((16, 24), (24, 16))),
        dict(canvases=((48, 48),), margin=8, method="window", overlap=0.0),
        dict(canvases=((32, 32),), method="window"),
        dict(canvases=((16, 24),), flip=True),
    ],
)
def test_scores_are_computed_on_the_original_pixels(fields, tmp_path):
    source = Images([(16, 24), (9, 17), (1, 1), (12, 24), (16, 16)])
    result = evaluate(source, **fields)
    pixels = sum(height * width for height, width in source.sizes)
    wrong = sum(width for _, width in source.sizes)
    assert result.scores["pixel_accuracy"] == pytest.approx(1 - wrong / pixels)
    write_result(tmp_path, "one", result, "rows")
    rows = [json.loads(line) for line in (tmp_path / "records" / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows) == [f"image_{i}" for i in range(5)] and result.images == 5
    for row in rows:
        height, width = source.sizes[row["image_id"]]
        assert row.keys() == {"image_id", "name", "source_id", "confusion", "boundary"}, "a part for each metric"
        assert sum(count for _, _, count in row["confusion"]) == height * width
    assert (tmp_path / "predictions" / "one-classes.csv").read_text().startswith("class,IoU")
    assert (tmp_path / "predictions" / "one-confusion.png").stat().st_size > 500
    drawn = read_examples(tmp_path / "predictions" / "rows-examples.zip")
    assert tuple(drawn.class_names) == CLASSES
    assert [(own.index, own.name) for own in drawn.examples] == [(0, "image_0"), (4, "image_4")]
    for own in drawn.examples:
        assert {name: Image.open(io.BytesIO(tile)).width for name, tile in own.tiles.items()} == TILES


def test_stretched_images_are_scored_at_their_own_size():
    """A block of the image is a block on a canvas of another size, and every pixel counts once."""

    class Halves(Images):
        def __getitem__(self, index):
            height, width = self.sizes[index]
            label = np.zeros((height, width), np.uint8)
            label[:, width // 2 :] = 1
            return {"image": np.repeat(np.where(label, 255, 0)[..., None], 3, -1).astype(np.uint8), "label": label}

    config, task, results, architecture, variables, mesh = make(scales=(1.0, 0.5))
    config.data.fit = "stretch"
    source = Halves([(64, 64), (10, 40), (33, 20)])
    result = Evaluator(config, task, results, architecture, source, mesh)(variables)
    assert result.scores["mIoU"] == 1.0
    result.records.seek(0)
    counted = [sum(n for _, _, n in json.loads(line)["confusion"]) for line in result.records]
    assert sorted(counted) == sorted(height * width for height, width in source.sizes)


def test_memory_does_not_grow_with_the_number_of_images():
    def peak(count):
        config, task, results, architecture, variables, mesh = make(canvases=((64, 64),), pictures=0)
        evaluator = Evaluator(config, task, results, architecture, Images([(64, 64)] * count), mesh)
        evaluator(variables)  # compiles
        tracemalloc.start()
        evaluator(variables)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(120) < 1.5 * peak(12)


def test_stop_interrupts_an_evaluation():
    config, task, results, architecture, variables, mesh = make()
    with pytest.raises(Interrupted):
        Evaluator(config, task, results, architecture, Images([(16, 16)] * 9), mesh)(variables, stop=lambda: True)


def test_evaluation_compiles_once_per_canvas():
    config, task, results, architecture, variables, mesh = make(canvases=((16, 24), (24, 16)))
    inference = Inference(config, task, results, architecture, mesh)
    for _ in range(2):
        assert len(list(inference(variables, Images([(16, 20), (20, 16), (4, 4), (16, 24)] * 2)))) == 8
    assert inference.compilations == 2


def test_images_without_labels_have_no_scores():
    """Prediction has no ground truth either."""

    config, task, results, architecture, variables, mesh = make()
    inference = Inference(config, task, results, architecture, mesh)
    predictions = dict((index, prediction) for index, _, prediction in inference(variables, Bare([(16, 16)] * 3)))
    assert sorted(predictions) == [0, 1, 2] and inference.terms["cross_entropy"].weight == 0
    np.testing.assert_array_equal(predictions[1]["label"], Bare([(16, 16)] * 3)[1]["image"][..., 0] > 100)


def test_a_term_without_a_weight_adds_nothing_to_the_loss_of_the_split():
    terms = {"boxes": Mean(4.0, 2.0, factor=0.5), "masks": Mean(0.0, 0.0), "floored": Mean(3.0, 0.0, floor=1.0)}
    scores = reduce_means(terms, {"matched": Mean(6.0, 3.0)})
    assert scores["loss"] == 0.5 * 2.0 + 3.0 and scores["matched"] == 2.0 and np.isnan(scores["masks"])
    assert np.isnan(reduce_means({"masks": Mean(0.0, 0.0)}, {})["loss"])


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_overlap_tile_equals_the_whole_image(overlap):
    """An unpadded U-Net predicts the same in tiles as for the whole mirrored image (Ronneberger et al. 2015, figure 2)."""

    class Noise(Bare):
        def __getitem__(self, index):
            rng = np.random.default_rng(index)
            return {"image": rng.integers(0, 256, (*self.sizes[index], 3), np.uint8)}

    source, found = Noise([(70, 101), (45, 30), (108, 108)]), []
    for canvas in ((148, 148), (84, 92)):
        config = common.get_config()
        segmenters.use_unet(config, depth=2, width=4, padding="valid", norm="none")
        config.data.update(canvases=(canvas,), margin=20, fit="crop", border="mirror")
        config.eval.update(method="window", overlap=overlap, batch_size=2, metrics=("partition",))
        architecture, _, _ = states.describe(config, 2)
        mesh = sharding.make_mesh(config.mesh)
        task = make_task(config, CLASSES)
        results = make_results(task.needs, config.eval, CLASSES)
        inference = Inference(config, task, results, architecture, mesh)
        predictions = inference(states.initialise(config, 2, seed=0), source)
        found.append({index: prediction["probability"] for index, _, prediction in predictions})
    for index, size in enumerate(source.sizes):
        assert found[0][index].shape == (*size, 2) and found[0][index].std() > 0.01
        np.testing.assert_allclose(found[1][index], found[0][index], atol=1e-5)


PROGRAM = """
from models import registry
from tests.experiments.run import test_evaluator

registry.MODELS["threshold"] = "tests.experiments.run.test_evaluator:Threshold"
source = test_evaluator.Images([(16, 24), (9, 17), (1, 1), (12, 24), (40, 50)])
result = test_evaluator.evaluate(source, canvases=((48, 56), (56, 48)), flip=True, scales=(1.0, 0.5))
result.records.seek(0)
names = sorted(json.loads(line)["name"] for line in result.records)
print(json.dumps([result.scores, names, result.images]))
"""


@pytest.mark.slow  # test_processes.py evaluates in two processes, too
def test_two_processes_give_the_same_numbers_as_one():
    (alone,), both = run_together(PROGRAM, 1), run_together(PROGRAM, 2)
    assert both[0] == both[1]
    scores, *rest = both[0]
    assert rest == alone[1:]
    assert scores.keys() == alone[0].keys()
    for name, value in scores.items():  # the loss is a sum over other batches
        assert value == pytest.approx(alone[0][name], rel=1e-5), name
