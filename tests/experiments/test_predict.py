"""predict on proposals: images of a user's own have none stored, so they are found."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import common
from experiments import predict as module
from experiments.command_line import Command
from experiments.run import state as states
from experiments.run.model import Loaded
from experiments.tasks.dense import Detection
from experiments.tasks.registry import TASKS
from input_pipeline.objects import overlap
from models import registry
from tests.input_pipeline.test_proposals import GREEN, RED, draw


class Nothing(registry.Model):
    produces = "nothing"

    def __init__(self, *, num_classes: int, dtype: str, rngs: nnx.Rngs):
        self.unused = nnx.Param(jnp.zeros(1))

    def __call__(self, images, *, train, rngs=None):
        return {}

    def geometry(self, size):
        return {}


class EchoTask(Detection):
    """Detects what is proposed, with a score that falls with the rank."""

    needs = ("boxes", "proposals")
    reads, advice = "nothing", ""

    def apply(self, model, batch, *, train, rngs):
        return {"boxes": batch["proposals"], "there": batch["proposal_mask"]}

    def loss(self, outputs, batch):
        return {}, {}

    def decode(self, outputs, size):
        ranks = jnp.linspace(0.9, 0.1, outputs["there"].shape[1])
        return outputs["boxes"], (outputs["there"] * ranks)[..., None]

    def matchable(self, geometry, boxes, size):
        return np.ones(len(boxes), bool)


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_without_stored_proposals_gets_them(tmp_path, monkeypatch, capsys, flip):
    monkeypatch.setitem(registry.MODELS, "nothing", f"{__name__}:Nothing")
    monkeypatch.setitem(TASKS, "echo", f"{__name__}:EchoTask")
    config = common.get_config()
    config.model.update(name="nothing", dtype="float32")
    config.task.update(name="echo", use_difficult=True)
    config.task.update(score_threshold=0.01, nms_iou=0.9, nms_candidates=50, max_detections=50)
    config.data.update(image_size=(64, 64), max_proposals=50, num_threads=1)
    config.data.proposals.min_side = 4
    config.eval.update(metrics=("coco",), batch_size=2, flip=flip, merge_iou=0.9)
    architecture, _, _ = states.describe(config, 1)
    variables = states.initialise(config, 1, seed=0)
    loaded = Loaded(architecture, jax.device_get(variables), ("thing",), (1,), {}, {}, "name", "words")
    monkeypatch.setattr(module, "load_model", lambda *_: loaded)
    (tmp_path / "in").mkdir()
    large = np.repeat(np.repeat(draw(0), 2, 0), 3, 1)  # 128x192
    Image.fromarray(large).save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no image")
    flags = dict(data_dir=None, checkpoint="best", weights="auto", profile=False)
    flags |= dict(inputs=str(tmp_path / "in"), output=str(tmp_path / "out"))
    module.predict(Command(config, True, str(tmp_path / "run"), **flags))
    printed = capsys.readouterr()
    assert "finding proposals" in printed.out and "1 of 2 images, 1 skipped" in printed.out
    x, y, width, height = np.transpose(
        [row["bbox"] for row in json.loads((tmp_path / "out/detections.json").read_text())]
    )
    boxes = np.stack([y, x, y + height, x + width], -1)
    assert overlap(np.array([RED, GREEN]) * (2, 3, 2, 3), boxes).max(1).min() > 0.9 and len(boxes) > 5
