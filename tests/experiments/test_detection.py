"""The scores, views and datacheck of detectors, with a detector whose results are known."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common
from errors import UserError
from experiments.datacheck import before_training
from experiments.object_counts import check_objects, print_report
from experiments.results.registry import make_results
from experiments.run import sharding
from experiments.run import state as states
from experiments.run.evaluator import Evaluator
from experiments.run.inference import Inference
from experiments.run.step import make_train_step
from experiments.run.trainer import initialise_run
from experiments.tasks.dense import Detection
from experiments.tasks.registry import TASKS, make_task
from input_pipeline.batch import check_batch
from input_pipeline.loader import TrainLoader
from input_pipeline.masks import Mask, collect
from input_pipeline.truths import make_truth
from models import registry
from tests.processes import run_together

ROOT = pathlib.Path(__file__).parents[2]
CLASSES = ("red", "green", "blue")


class Bright(registry.Model):
    """A detector of the box around bright pixels in each colour, one detection per class."""

    produces = "bright boxes"

    def __init__(self, *, num_classes: int, dtype: str, rngs: nnx.Rngs):
        self.level = nnx.Param(jnp.zeros(1))

    def __call__(self, images, *, train, rngs=None):
        bright = images > self.level[...]
        sides = []
        for axis, length in ((2, images.shape[1]), (1, images.shape[2])):
            there = bright.any(axis)  # [B,length,3]
            sides.append((jnp.argmax(there, 1), length - jnp.argmax(there[:, ::-1], 1)))
        (top, bottom), (left, right) = sides
        boxes = jnp.stack([top, left, bottom, right], -1).astype(jnp.float32)
        return {"boxes": boxes, "present": bright.any((1, 2)).astype(jnp.float32)}

    def geometry(self, size):
        return {}


class BrightTask(Detection):
    reads = "bright boxes"
    advice = "brighten it"

    def loss(self, outputs, batch):
        objects = self.learnable(batch)
        return {"objects": self.mean_per_image(jnp.sum(objects, dtype=jnp.float32), batch)}, {}

    def decode(self, outputs, size):
        return outputs["boxes"], outputs["present"][..., None] * jnp.eye(3) * jnp.array([0.9, 0.8, 0.7])

    def matchable(self, geometry, boxes, size):
        return boxes[:, 2] - boxes[:, 0] >= 4


class Scenes:
    """Images with at most one rectangle of each colour. Each fourth image has no objects."""

    class_names, category_ids, fingerprint, dropped, absent = CLASSES, (7, 8, 90), "", (), ()
    bad_boxes, clipped_boxes = ("scene_0: object 9 of class red: zero area",), 0

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        (height, width), objects = self.objects(index)
        image, masks = np.zeros((height, width, 3), np.uint8), []
        for (top, left, bottom, right), colour in zip(objects["boxes"].astype(int), objects["classes"], strict=True):
            image[top:bottom, left:right, colour] = 255
            masks.append(Mask(np.ones((max(1, bottom - top), max(1, right - left)), bool), (top, left)))
        rng, count = np.random.default_rng(index), 3 * (index % 3)  # some images have no proposals
        corners = np.sort(rng.uniform(0, 1, (2, count, 2)), 0) * (height, width)
        proposals = np.concatenate([*corners], -1).astype(np.float32)
        return {"image": image, "masks": collect(masks), "proposals": proposals} | objects

    def objects(self, index):
        rng = np.random.default_rng(index)
        height, width = self.sizes[index]
        count = index % 4
        top, left = rng.integers(0, height // 2, count), rng.integers(0, width // 2, count)
        boxes = np.stack([top, left, top + rng.integers(3, height // 2, count), left + width // 2], -1)
        flags = np.zeros((2, count), bool)
        return (height, width), {
            "boxes": boxes.astype(np.float64),
            "classes": rng.permutation(3)[:count].astype(np.int32),
            "crowd": flags[0],
            "difficult": flags[1],
            "area": np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1).astype(np.float64),
        }

    def image_id(self, index):
        return 100 + index

    def find_bad_boxes(self, index):
        return ("scene_3: object 4 of class blue: reversed",) if index == 3 else ()

    def name(self, index):
        return f"scene_{index}"

    def size(self, index):
        return self.sizes[index]


SIZES = [(16, 24), (20, 18), (24, 24), (24, 20), (14, 22), (24, 24), (18, 16), (22, 22)]


@pytest.fixture(autouse=True)
def bright(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "bright", f"{__name__}:Bright")
    monkeypatch.setitem(TASKS, "bright", f"{__name__}:BrightTask")


def make(**evaluation):
    config = common.get_config()
    config.model.update(name="bright", dtype="float32")
    suppression = dict(score_threshold=0.01, nms_iou=0.45, nms_candidates=400, max_detections=200)
    config.task.update(name="bright", use_difficult=True, **suppression)
    config.eval.metrics = ("coco", "voc07", "voc12", "confusion")
    config.data.update(max_boxes=5, canvases=((24, 24),), image_size=(24, 24), fit="crop")
    config.data.mean = (100.0, 100.0, 100.0)
    config.eval.update(dict(batch_size=3, pictures=2) | evaluation)
    mesh = sharding.make_mesh(config.mesh)
    architecture, _, _ = states.describe(config, 3)
    task = make_task(config, CLASSES)
    results = make_results(task.needs, config.eval, CLASSES)
    return config, task, results, architecture, states.initialise(config, 3, seed=0), mesh


def evaluate(source, **fields):
    config, task, results, architecture, variables, mesh = make(**fields)
    return Evaluator(config, task, results, architecture, source, mesh)(variables)


@pytest.mark.parametrize(
    "fields", [{}, dict(flip=True), dict(method="window", overlap=0.0), dict(flip=True, scales=(1.0, 2.0))]
)
def test_boxes_are_returned_in_original_pixels(fields):
    """Each object has one detection, for any number of views."""
    config, task, results, architecture, variables, mesh = make(**fields)
    source = Scenes(SIZES)
    found = {index: rows for index, _, rows in Inference(config, task, results, architecture, mesh)(variables, source)}
    for index in range(len(source)):
        _, objects = source.objects(index)
        order = np.argsort(objects["classes"])
        assert found[index]["classes"].tolist() == objects["classes"][order].tolist()
        np.testing.assert_allclose(
            found[index]["boxes"], objects["boxes"][order], atol=0.51 if "scales" in fields else 0
        )


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "shortest"])
def test_boxes_are_returned_from_canvases_of_every_fit(fit):
    """Boxes found at two to three times the size, mirrored and zoomed, are right to half a pixel of the image."""
    config, task, results, architecture, variables, mesh = make(flip=True, scales=(1.0, 0.75))
    config.data.update(fit=fit, shortest=(48, 72), canvases=((48, 80), (80, 48)))
    source = Scenes(SIZES)
    for index, _, rows in Inference(config, task, results, architecture, mesh)(variables, source):
        _, objects = source.objects(index)
        order = np.argsort(objects["classes"])
        assert rows["classes"].tolist() == objects["classes"][order].tolist()
        np.testing.assert_allclose(rows["boxes"], objects["boxes"][order], atol=0.5)


def test_a_perfect_detector_has_perfect_scores_and_records(tmp_path):
    result = evaluate(Scenes(SIZES))
    assert result.scores["AP50"] == result.scores["AP"] == 1.0 == result.scores["AP50/green"]
    assert result.scores["mAP_voc07"] == pytest.approx(1.0) and result.scores["mAP_voc12"] == pytest.approx(1.0)
    result.records.seek(0)
    rows = sorted(map(json.loads, result.records), key=lambda row: row["image_id"])
    assert [len(row["average_precision"]["objects"]) for row in rows] == [index % 4 for index in range(8)]
    assert {"examples", "confusion", "precision_recall"} <= result.pictures.keys()


def test_a_stretched_image_is_scored_against_its_own_annotations():
    config, task, results, architecture, variables, mesh = make()
    config.data.fit, config.data.canvases = "stretch", ((48, 72),)
    result = Evaluator(config, task, results, architecture, Scenes([(16, 24)] * 8), mesh)(variables)
    assert result.scores["AP"] == 1.0


def test_inference_compiles_once_for_any_number_of_objects():
    config, task, results, architecture, variables, mesh = make()
    inference = Inference(config, task, results, architecture, mesh)
    for source in (Scenes(SIZES[:1]), Scenes(SIZES), Scenes(SIZES * 2)):
        assert len(list(inference(variables, source))) == len(source)
    assert inference.compilations == 1


TWO_STAGES = ("faster_rcnn_shapes", "mask_rcnn_shapes")
PYRAMIDS = ("retinanet_shapes", "fcos_shapes", *TWO_STAGES)
PROPOSED = ("fast_rcnn_shapes", "sppnet_shapes", "rcnn_shapes")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in (*PYRAMIDS, *PROPOSED)]


def train(config, sources, steps):
    """Train `steps` on each of `sources` without a warm-up. Return losses, objects beyond M, and compilations."""
    config.data.max_boxes, config.optim.warmup_steps = 2, 0
    task, mesh = make_task(config, CLASSES), sharding.make_mesh(config.mesh)
    architecture, state, optimizer = initialise_run(config, mesh, CLASSES)
    key = jax.random.key(0)
    step, losses, lost = jax.jit(make_train_step(config, task, architecture, optimizer)), [], []
    for source in sources:
        truth = make_truth(task.needs, config.data)
        loader = TrainLoader(source, truth, config.data, batch_size=4, seed=0)
        for _ in range(steps):
            rows = next(loader)
            check_batch(rows, truth.keys)
            state, logs = step(state, sharding.put_batch(rows, mesh), key)
            losses.append(float(logs["loss"]))
            lost.append(float(logs["boxes_lost"]))
        loader.close()
    assert all(np.isfinite(value).all() for value in state.params.values())
    return losses, lost, step._cache_size()


@pytest.mark.parametrize("name", ["yolov1_shapes", pytest.param("ssd_shapes", marks=pytest.mark.slow), *SLOW])
def test_training_compiles_once_for_any_number_of_objects(name):
    """Images have no objects, some objects, and more objects than max_boxes."""
    config = importlib.import_module(f"configs.{name}").get_config("debug")
    config.optim.lr = 1e-2
    if name not in (*TWO_STAGES, *PROPOSED):
        config.model.norm = "group"
    if name != "yolov1_shapes":
        config.model.backbone.norm = "group"
    if name in PYRAMIDS:
        config.model.backbone.bottom_up.norm = "group"
    sources = [Scenes(sizes) for sizes in ([SIZES[0]], SIZES, [(24, 24)] * 16)]  # image i has i % 4 objects
    losses, lost, compilations = train(config, sources, steps=6)
    assert compilations == 1
    assert np.isfinite(losses).all() and losses[-1] > 0
    assert max(lost[:6]) == 0 < max(lost), "objects beyond M are reported"


@pytest.mark.parametrize("name", ["mask_rcnn_shapes", SLOW[2], *SLOW[4:]])
def test_two_stages_compile_once_for_any_number_of_objects(name):
    config = importlib.import_module(f"configs.{name}").get_config("debug")
    config.task.score_threshold = 0.0
    task, mesh = make_task(config, CLASSES), sharding.make_mesh(config.mesh)
    results = make_results(task.needs, config.eval, CLASSES)
    architecture, _, _ = states.describe(config, 3)
    variables = states.initialise(config, 3, seed=0)
    inference, found = Inference(config, task, results, architecture, mesh), 0
    for source in (Scenes(SIZES[:1]), Scenes(SIZES), Scenes([(24, 24)] * 16)):
        for _, _, prediction in inference(variables, source):
            assert ("masks" in prediction) == (name == "mask_rcnn_shapes")
            assert len({len(rows) for rows in prediction.values()}) == 1
            found += len(prediction["boxes"])
    assert inference.compilations == 1 and found > 100


def test_a_best_loss_needs_a_loss_in_evaluation():
    config = importlib.import_module("configs.faster_rcnn_shapes").get_config("debug")
    config.train.best = "val/loss"
    task, mesh = make_task(config, CLASSES), sharding.make_mesh(config.mesh)
    architecture, shapes, _ = states.describe(config, 3)
    inference = Inference(config, task, make_results(task.needs, config.eval, CLASSES), architecture, mesh)
    with pytest.raises(
        UserError, match="config.train.best='val/loss' is .*'faster_rcnn' has no loss in evaluation; choose a score"
    ):
        inference.check(shapes, (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("name", PYRAMIDS)
def test_a_thousand_steps_in_bfloat16_are_finite(name):
    """There is no warm-up, some images have no objects, and some objects have a fifth of a pixel."""

    class Tiny(Scenes):
        def objects(self, index):
            size, objects = super().objects(index)
            if index % 2:
                objects["boxes"][:, 2:] = objects["boxes"][:, :2] + 0.2
            return size, objects

    config = importlib.import_module(f"configs.{name}").get_config("debug")
    config.model.dtype = "bfloat16"
    losses, *_ = train(config, [Tiny(SIZES)], steps=1000)
    assert len(losses) == 1000 and np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("score_threshold", 1.5), ("nms_iou", -0.1), ("nms_candidates", 0), ("max_detections", 0)],
)
def test_field_out_of_range_raises_a_one_line_error(field, value):
    config, *_ = make()
    config.task[field] = value
    with pytest.raises(UserError, match=rf"config.task.{field}={value} is out of its range"):
        make_task(config, CLASSES)


@pytest.mark.parametrize(
    ("name", "task"), [("yolov1_shapes", "ssd_shapes"), ("ssd_shapes", "yolov1_shapes"), ("ssd_shapes", "unet_shapes")]
)
def test_model_that_does_not_fit_its_task_raises_a_one_line_error(name, task):
    config, other = (importlib.import_module(f"configs.{name}").get_config("debug") for name in (name, task))
    config.task = other.task
    with pytest.raises(UserError, match=f"config.task.name='{config.task.name}' reads .*{config.model.name}"):
        make_task(config, CLASSES)


def test_datacheck_ignores_the_objects_that_training_ignores(capsys):
    class Marked(Scenes):
        def objects(self, index):
            size, objects = super().objects(index)
            return size, objects | {"difficult": objects["classes"] == 0, "crowd": objects["classes"] == 1}

    config, *_ = make()
    for use_difficult in (True, False):
        config.task.use_difficult = use_difficult
        report = check_objects(config, make_task(config, CLASSES), Marked(SIZES))
        learned = {name: row["learned"] for name, row in report["classes"].items()}
        assert learned["green"] == 0 < report["classes"]["green"]["objects"]
        assert (learned["red"] > 0) == use_difficult and learned["blue"] > 0
        print_report(report)
        warning = capsys.readouterr().err
        assert f"no training object of {'green' if use_difficult else 'red, green'}" in warning


def test_datacheck_counts_objects_and_matchable_ones(tmp_path, capsys):
    config, task, *_ = make()
    config.data.max_boxes, config.data.fit = 2, "stretch"
    source = Scenes(SIZES)
    before_training(config, task, source, tmp_path)
    report = json.loads((tmp_path / "datacheck.json").read_text())
    every = [source.objects(index) for index in range(len(source))]
    boxes = np.concatenate([objects["boxes"] * 24 / np.tile(size, 2) for size, objects in every])
    heights = boxes[:, 2] - boxes[:, 0]
    assert report["images"] == 8 and report["images_without_objects"] == 2 and report["objects"] == 12
    assert report["padding"] == {"max_boxes": 2, "images": 2, "objects_lost": 2}
    assert report["matchable"] == pytest.approx(np.mean(heights >= 4)) and 0 < report["matchable"] < 0.95
    assert report["network_pixels"]["height"][4] == pytest.approx(heights.max(), abs=0.01)
    assert sum(row["objects"] for row in report["classes"].values()) == 12 == report["sizes"]["small"]["objects"]
    printed = capsys.readouterr()
    assert (
        "zero area; scene_3: object 4" in printed.err
        and "config.data.max_boxes=2" in printed.err
        and "brighten it" in printed.err
    )
    assert not printed.out, "the first screen has a row of it"
    assert before_training(config, task, source, tmp_path) is None, "once per run"
    assert not capsys.readouterr().err


def test_datacheck_reports_the_recall_of_proposals(tmp_path, capsys, monkeypatch):
    """The recall is in pixels of the image, for learned objects, without the green ones, which are crowds here."""

    class Proposed(Scenes):
        def objects(self, index):
            size, objects = super().objects(index)
            return size, objects | {"crowd": objects["classes"] == 1}

        def proposals(self, index):
            """Return the whole image ten times, and then nearly the box of the first object."""
            (height, width), objects = self.objects(index)
            boxes = [[0, 0, height, width]] * 10 + np.add(objects["boxes"][:1], (0, 0, 0.1, 0.1)).tolist()
            return np.array(boxes, np.float32)

    monkeypatch.setattr(BrightTask, "needs", ("boxes", "proposals"))
    config, task, *_ = make()
    config.data.fit = "stretch"
    source = Proposed(SIZES)
    print_report(before_training(config, task, source, tmp_path))
    report = json.loads((tmp_path / "datacheck.json").read_text())["proposals"]
    every = [source.objects(index)[1] for index in range(len(source))]
    learned = [objects["classes"] != 1 for objects in every]
    first = [objects["classes"][:1] != 1 for objects in every]
    assert report["per_image"] == {"mean": (10 * 8 + 6) / 8, "most": 11}
    best = report["recall"]["0.7"]
    assert list(best) == ["10", "100", "300", "1000", "2000"] and best["10"] == 0
    assert best["100"] == best["2000"] == pytest.approx(np.concatenate(first).sum() / np.concatenate(learned).sum())
    assert 0 < best["100"] < 1
    assert "at IoU 0.5" in capsys.readouterr().out


def test_datacheck_measures_objects_at_the_size_of_fit_shortest():
    """Shorter sides have at most 12 pixels, longer ones at most 16."""
    config, task, *_ = make()
    config.data.update(fit="shortest", shortest=(12, 16))
    report = check_objects(config, task, Scenes([(16, 24)] * 4))
    (_, one), (_, two), (_, three) = (Scenes([(16, 24)] * 4).objects(index) for index in (1, 2, 3))
    boxes = np.concatenate([objects["boxes"] for objects in (one, two, three)])
    heights = (boxes[:, 2] - boxes[:, 0]) * 10 / 16  # 24 pixels become 16, and 16 become 10.67
    assert report["network_pixels"]["height"] == np.percentile(heights, (0, 25, 50, 75, 100)).round(2).tolist()


def test_datacheck_measures_objects_of_a_crop_at_the_middle_zoom():
    config, task, *_ = make()
    config.data.fit, config.data.augment.scale = "crop", (2.0, 4.5)
    source = Scenes([(16, 24)] * 4)
    report = check_objects(config, task, source)
    boxes = np.concatenate([objects["boxes"] for _, objects in map(source.objects, range(4))])
    heights = 3 * (boxes[:, 2] - boxes[:, 0])  # 3 is the geometric mean of 2 and 4.5
    assert report["network_pixels"]["height"] == np.percentile(heights, (0, 25, 50, 75, 100)).round(2).tolist()
    assert report["matchable"] == np.mean(heights >= 4) == 1


def test_datacheck_centres_a_crop_on_its_object(monkeypatch):
    """The middle crop of a large image shows few of its objects, so each is judged in a crop that contains it."""
    config, task, *_ = make()

    def is_inside(geometry, boxes, size):
        return ((boxes > 0) & (boxes < np.tile(size, 2))).all(-1)

    monkeypatch.setattr(task, "matchable", is_inside)
    assert check_objects(config, task, Scenes([(42, 42)] * 4))["matchable"] == 1


PROGRAM = """
from experiments.tasks.registry import TASKS
from models import registry
from tests.experiments import test_detection

registry.MODELS["bright"] = "tests.experiments.test_detection:Bright"
TASKS["bright"] = "tests.experiments.test_detection:BrightTask"
source = test_detection.Scenes(test_detection.SIZES[:7])
result = test_detection.evaluate(source, batch_size=4, scales=(0.5,))
print(json.dumps(result.scores))
"""


@pytest.mark.slow
def test_two_processes_give_the_same_numbers_as_one():
    alone, both = evaluate(Scenes(SIZES[:7]), batch_size=4, scales=(0.5,)).scores, run_together(PROGRAM, 2)
    assert 0 < alone["AP"] < 1
    for scores in both:
        assert scores.keys() == alone.keys()
        for name, value in alone.items():
            assert scores[name] == value or (value != value and scores[name] != scores[name]), name
