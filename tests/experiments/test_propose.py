"""The proposals of a first stage, stored and read back by a detector of another run."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from errors import UserError
from experiments import propose as module
from experiments.command_line import Command
from experiments.run import state as states
from experiments.run.model import Loaded
from experiments.tasks.dense import Detection
from experiments.tasks.registry import TASKS
from input_pipeline.datasets.shapes import FIGURES
from input_pipeline.sources import open_source
from models import registry
from tests.experiments.test_predict import Nothing

KEPT = 5


class Proposing(Nothing):
    produces = "proposals and regions"


class BrightnessTask(Detection):
    """A first stage that proposes the upper part of an image, larger for a brighter image, and then the whole image."""

    reads, advice = "proposals and regions", ""
    proposals, proposal_iou = (KEPT, KEPT), 0.7

    def apply(self, model, batch, *, train, rngs):
        count, height, width = batch["image"].shape[:3]
        bright = jnp.mean(batch["image"].astype(jnp.float32), (1, 2, 3)) / 255
        regions = jnp.tile(jnp.asarray([0.0, 0.0, height, width]), (count, KEPT, 1))
        return {
            "regions": regions.at[:, 0, 2].multiply(bright),
            "region_mask": jnp.arange(KEPT) < jnp.full((count, 1), 2),
        }

    def loss(self, outputs, batch):
        raise NotImplementedError("of the second stage")

    def decode(self, outputs, size):
        raise NotImplementedError("of the second stage")

    def matchable(self, geometry, boxes, size):
        raise NotImplementedError


def make(monkeypatch, name="nothing"):
    """Make the config of a run, and the result of load_model."""
    monkeypatch.setitem(registry.MODELS, "nothing", f"{__name__}:Proposing")
    monkeypatch.setitem(TASKS, "brightness", f"{__name__}:BrightnessTask")
    config = common.get_config()
    config.model.update(name="nothing", dtype="float32")
    config.task.update(name="brightness", use_difficult=True)
    config.task.update(score_threshold=0.01, nms_iou=0.9, nms_candidates=50, max_detections=50)
    config.data.update(image_size=(64, 64), canvases=((64, 64), (64, 80)), train_split="train[:20]+shapes:train[590:]")
    config.data.eval_split = "validation[:3]"
    config.eval.update(metrics=("coco_masks",), batch_size=8, flip=True)
    architecture, _, _ = states.describe(config, len(FIGURES))
    variables = jax.device_get(states.initialise(config, len(FIGURES), seed=0))
    loaded = Loaded(architecture, variables, FIGURES, (1, 2, 3, 4, 5), {"step": 7}, {}, "name", "words")
    monkeypatch.setattr(module, "load_model", lambda *_: loaded)
    return config


def run(config, place, data_dir):
    flags = dict(checkpoint="best", weights="auto", profile=False, inputs=None, output=None)
    module.propose(Command(config, True, str(place), data_dir=data_dir, **flags))


def read(place, split, data_dir):
    data = common.get_config().data
    data.proposals.update(method="folder", folder=str(place / "proposals"))
    return open_source(data, split, data_dir, ("boxes", "proposals"))


def test_proposals_of_one_run_are_read_by_another(tmp_path, data_dir, monkeypatch, capsys):
    config = make(monkeypatch)
    run(config, tmp_path, data_dir)
    assert f"--config.data.proposals.folder={tmp_path / 'proposals'}" in capsys.readouterr().out
    for split, count in ((config.data.train_split, 30), ("train[:20]", 20), ("validation[:3]", 3)):
        source = read(tmp_path, split, data_dir)
        assert len(source) == count
        for index in range(count):
            example = source[index]
            height, width = example["image"].shape[:2]
            expected = [[0, 0, height * example["image"].mean() / 255, width], [0, 0, height, width]]
            np.testing.assert_allclose(example["proposals"], expected, atol=1)
            np.testing.assert_array_equal(example["proposals"], source.proposals(index))
    with pytest.raises(
        UserError, match="lacks the proposals of 600 of the 600 images of shapes train; write them"
    ) as caught:
        read(tmp_path, "train", data_dir)
    assert "\n" not in str(caught.value)


def test_a_kill_keeps_files_and_other_weights_need_another_folder(tmp_path, data_dir, monkeypatch):
    config = make(monkeypatch)
    config.data.train_split = config.data.eval_split = "train[:20]"
    run(config, tmp_path, data_dir)
    (store,) = (path for path in (tmp_path / "proposals").iterdir() if path.is_dir())
    first, second = sorted(store.iterdir())
    second.unlink()
    before = first.stat().st_mtime_ns
    run(config, tmp_path, data_dir)
    assert second.exists() and first.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "proposals/made_with.json").read_text())["step"] == 7
    loaded = module.load_model()
    monkeypatch.setattr(module, "load_model", lambda *_: loaded._replace(facts={"step": 8}))
    with pytest.raises(UserError, match="holds proposals of other weights or fields.*--output") as caught:
        run(config, tmp_path, data_dir)
    assert "\n" not in str(caught.value)


def test_one_stage_task_raises_an_error(tmp_path, data_dir, monkeypatch):
    config = make(monkeypatch)
    monkeypatch.setattr(BrightnessTask, "reads", "maps")
    monkeypatch.setattr(Proposing, "produces", "maps")
    with pytest.raises(
        UserError, match="config.task.name='brightness' makes no proposals; use the --workdir of a Faster"
    ):
        run(config, tmp_path, data_dir)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faster_rcnn_shapes", "mask_rcnn_shapes"])
def test_faster_rcnn_stores_proposals(name, tmp_path, data_dir, monkeypatch):
    make(monkeypatch)
    config = importlib.import_module(f"configs.{name}").get_config("debug")
    config.data.update(train_split="train[:3]", eval_split="validation[:3]")
    architecture, _, _ = states.describe(config, len(FIGURES))
    loaded = module.load_model()
    loaded = loaded._replace(
        architecture=architecture, variables=jax.device_get(states.initialise(config, len(FIGURES), seed=0))
    )
    monkeypatch.setattr(module, "load_model", lambda *_: loaded)
    run(config, tmp_path, data_dir)
    for split in ("train[:3]", "validation[:3]"):
        source = read(tmp_path, split, data_dir)
        for index in range(3):
            boxes, size = source.proposals(index), source.size(index)
            assert 10 < len(boxes) <= config.task.proposals[1]
            assert (boxes >= 0).all() and (boxes <= np.tile(size, 2)).all()
            assert len(np.unique(boxes, axis=0)) == len(boxes)
