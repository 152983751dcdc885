"""The images that predict reads, the names of its results, and the proposals of images that have none stored."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import common
from errors import UserError
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
    """A detector that returns the proposals, with a score that falls with the rank."""

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
    (tmp_path / "in/deep").mkdir(parents=True)
    large = np.repeat(np.repeat(draw(0), 2, 0), 3, 1)  # 128x192
    Image.fromarray(large).save(tmp_path / "in/deep/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no image")
    flags = dict(data_dir=None, checkpoint="best", weights="auto", profile=False)
    flags |= dict(inputs=str(tmp_path / "in"), output=str(tmp_path / "out"))
    module.predict(Command(config, True, str(tmp_path / "run"), **flags))
    printed = capsys.readouterr()
    assert "finding proposals" in printed.out and "1 of 2 images, 1 skipped" in printed.out
    assert (tmp_path / "out/deep/a_boxes.png").is_file()
    x, y, width, height = np.transpose(
        [row["bbox"] for row in json.loads((tmp_path / "out/detections.json").read_text())]
    )
    boxes = np.stack([y, x, y + height, x + width], -1)
    assert overlap(np.array([RED, GREEN]) * (2, 3, 2, 3), boxes).max(1).min() > 0.9 and len(boxes) > 5


def write(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8) if pixels is None else pixels).save(path, **options)
    return path


def test_a_folder_is_searched_with_its_sub_folders_and_results_keep_them(tmp_path):
    inputs, workdir = tmp_path / "in", tmp_path / "in/runs/one"
    paths = [write(inputs / name) for name in ("a/x.png", "b/deep/x.png", "b/y.jpg", "b/y.png", "z.jfif")]
    write(inputs / ".hidden/x.png")
    write(workdir / "predictions/x.png")
    for name in ("b/video.mp4", "b/photo.heic", "notes.txt"):
        (inputs / name).write_bytes(b"something else")
    found, others = module.find_images(str(inputs), workdir)
    assert found == sorted(paths) and [path.name for path in sorted(others)] == ["photo.heic", "video.mp4"]
    names = module.output_names(found)
    assert [names[path] for path in paths] == ["a/x", "b/deep/x", "b/y.jpg", "b/y.png", "z"]
    globbed, others = module.find_images(f"{inputs}/**/x.png", workdir)
    assert {module.output_names(globbed)[path] for path in paths[:2]} == {"a/x", "b/deep/x"} and not others
    assert module.output_names([paths[1]]) == {paths[1]: "x"}


def test_error_for_inputs_without_images_names_the_skipped_files(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.raises(
        UserError, match="not a folder or a glob with images; 1 file is skipped \\(HEIC\\): a.heic; .*pillow-heif"
    ):
        module.find_images(str(tmp_path), tmp_path / "run")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="not a folder or a glob with images; 1 file is skipped .*: pipe.png"):
        module.find_images(str(tmp_path / "pipe.png"), tmp_path / "run")
    with pytest.raises(UserError, match=r"\.png is not a file, and not a folder"):
        module.find_images(str(tmp_path / "*.png"), tmp_path / "run")


def test_images_are_read_upright_with_the_white_level_of_the_run(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [write(tmp_path / "turned.png", exif=exif), write(tmp_path / "deep.png", np.full((3, 4), 2000, np.uint16))]
    paths += [write(tmp_path / "large.png", np.zeros((5, 5, 3), np.uint8))]
    images = module.ImageFiles(paths, white=4095, largest=24)
    assert images[0]["image"].shape == (4, 3, 3) and images.size(0) == (4, 3) and images.turned() == ["turned.png"]
    assert (images[1]["image"] == 2000 * 255 // 4095).all()
    assert images.note_depth() == ("16-bit images reach 2000; 4095 is read as white (config.data.white_level)",)
    images[2]
    assert images.unreadable == {2} and "config.data.max_pixels=24; raise it" in capsys.readouterr().err
    dark = module.ImageFiles(paths, white=65535, largest=24)
    dark[1]
    assert "--config.data.white_level=4095" in dark.note_depth()[0]


def test_files_are_written_under_printable_names_that_differ(tmp_path):
    paths = [tmp_path / name for name in ("a\x1b[31m.png", "a\x07[31m.png", "b" * 240 + ".png", "c.png")]
    names = list(module.output_names(paths).values())
    assert names[3] == "c" and len(set(names)) == 4
    assert all(name.isprintable() and len(name) < 200 for name in names)
