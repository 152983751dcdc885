"""Exports, which predict any batch like the task, and whose files do not need this code."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from errors import UserError
from experiments.command_line import Command, read_experiment
from experiments.export import export, export_program
from experiments.run import state as states
from experiments.run.card import OUTPUTS
from experiments.run.config_file import read_config
from experiments.run.directory import claim
from experiments.run.model import find_classes, load_model
from experiments.run.preemption import Preemption
from experiments.run.pretrained import load_weights
from experiments.run.program import make_program
from experiments.run.trainer import Trainer
from experiments.tasks.registry import make_task
from models.weights import name_by_torchvision
from tests import published

CLASSES = ("a", "b", "c")
FAMILIES = (
    "fcn8s_camvid",
    "unet_isbi",
    "unet_shapes",
    "unet_resnet34_camvid",
    "deeplabv3plus_camvid",
    "pix2pix_camvid",
    "ssd_shapes",
    "retinanet_shapes",
    "fcos_shapes",
    "yolov1_shapes",
    "faster_rcnn_shapes",
    "mask_rcnn_shapes",
    "fast_rcnn_shapes",
    "rcnn_shapes",
    "sppnet_shapes",
)


def configure(name: str) -> ConfigDict:
    """Return the debug variant of an experiment. A detector keeps detections of any score."""
    config = read_experiment(f"configs/{name}.py:debug", [])
    if "score_threshold" in config.task:
        config.task.score_threshold = 0.0
    return config


def draw_inputs(program, count, seed=0):
    """Draw noise, and boxes with ordered corners."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, one in program.specify(count).items():
        if one.dtype == np.float32:
            corners = np.sort(rng.uniform(0, 64, (2, *one.shape[:-1], 2)), axis=0)
            inputs[name] = np.concatenate([*corners], -1).astype(np.float32)
        else:
            inputs[name] = rng.integers(0, 2 if one.dtype == bool else 256, one.shape).astype(one.dtype)
    return inputs


def build(config):
    """Return the program of a config, and random variables for it."""
    architecture, _, _ = states.describe(config, len(CLASSES))
    variables = architecture.lasting(states.initialise(config, len(CLASSES), seed=0))
    rng = np.random.default_rng(0)  # some layers start at zero
    for name, value in variables.items():
        if not value.any():
            variables[name] = rng.normal(0, 0.02, value.shape).astype(np.float32)
    return make_program(config, architecture, make_task(config, CLASSES)), variables


@pytest.mark.parametrize(
    "name", [name if name == "yolov1_shapes" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_an_export_predicts_any_number_of_images_like_the_task(name):
    program, variables = build(configure(name))
    blob = export_program(program, variables).serialize()
    loaded = jax.export.deserialize(blob)
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    for count in (1, 3):
        inputs = draw_inputs(program, count)
        expected, found = jax.jit(program.predict)(variables, inputs), loaded.call(**inputs)
        assert found.keys() == expected.keys() <= OUTPUTS.keys()
        for key, value in found.items():
            # At least one object is found.
            assert len(value) == count and len(np.unique(value)) > 1 - (key == "valid"), key
            # Boxes are in pixels, and float32 stores 64 to 4e-6.
            np.testing.assert_allclose(
                value, expected[key], rtol=1e-5, atol=1e-4 if key == "boxes" else 1e-5, err_msg=key
            )


def test_boxes_are_clipped_at_the_border_of_the_image():
    """A detector of letterboxed images gets the area of the image and clips boxes to it, like predict."""
    config = configure("yolov1_shapes")
    config.data.fit = "letterbox"
    program, variables = build(config)
    inputs = draw_inputs(program, 2) | {"area": np.float32([[0, 0, 64, 64], [16, 0, 48, 64]])}
    outputs = jax.jit(program.predict)(variables, inputs)
    boxes, found = outputs["boxes"], outputs["valid"]
    assert found.any(1).all() and boxes[0][found[0]].min() == 0 and boxes[0].max() == 64
    assert (boxes[1][found[1]][:, ::2] >= 16).all() and (boxes[1][found[1]][:, ::2] <= 48).all()
    # The batch that predict makes of such an image of 32 x 64 pixels, 16 rows from the top.
    batch = {"image": inputs["image"], "example_mask": np.ones(2, bool)}
    batch["original_size"] = np.int32([[64, 64], [32, 64]])
    batch["to_original"] = np.float32([np.eye(2, 3), [[1, 0, 0], [0, 1, -16]]])
    task, (architecture, _, _) = make_task(config, CLASSES), states.describe(config, len(CLASSES))

    def predict(variables, batch):
        return task.predict(task.apply(architecture.merge(variables), batch, train=False, rngs=None), batch)

    np.testing.assert_array_equal(boxes, jax.jit(predict)(variables, batch)["boxes"])


def test_several_canvases_are_refused():
    config = configure("yolov1_shapes")
    config.data.canvases = ((64, 96), (96, 64))
    with pytest.raises(UserError, match=r"has 2 sizes, .* --config\.data\.canvases='\(\(64,96\),\)'$"):
        build(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir) -> pathlib.Path:
    """Return a run of no steps, which has scored its initial weights."""
    workdir = tmp_path_factory.mktemp("run") / "first"
    config = read_experiment("configs/fcn8s_camvid.py:debug", ["--config.train.steps=0", "--config.optim.ema=0.9"])
    config.data.update(train_split="train[:8]", eval_split="validation[:8]")
    trainer = Trainer(config, workdir, data_dir, Preemption())
    with claim(workdir, config):
        trainer.restore()
    trainer.run(None)
    return workdir


def command(workdir, **flags) -> Command:
    given = dict(data_dir=None, checkpoint="last", weights="auto", inputs=None, output=None, profile=False) | flags
    return Command(given.pop("config", None), False, str(workdir), **given)


def test_the_files_work_without_this_code(run, tmp_path, capsys):
    export(command(run, licence="CC-BY-4.0"))
    folder = run / "export" / "last-auto-0"
    assert f"in {folder}" in capsys.readouterr().out
    config = read_config(run)
    model = load_model(config, run, "last", "auto", None)
    program = make_program(config, model.architecture, make_task(config, model.class_names))
    inputs = draw_inputs(program, 3)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    np.savez(tmp_path / "in.npz", **inputs)
    # -I: without the environment's paths, so that our packages cannot be imported.
    arguments = [sys.executable, "-I", moved / "load.py", tmp_path / "in.npz", tmp_path / "out.npz"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = jax.jit(program.predict)(model.variables, inputs)
    with np.load(tmp_path / "out.npz") as found:
        assert found.files == list(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    assert len((moved / "load.py").read_text().splitlines()) == 10
    stored = load_file(moved / "weights.safetensors")
    assert stored.keys() == model.variables.keys()
    for name, value in stored.items():
        np.testing.assert_array_equal(value, model.variables[name])
    classes = [{"name": name, "id": number} for number, name in enumerate(model.class_names)]
    assert json.loads((moved / "classes.json").read_text()) == classes
    assert b".py" not in (moved / "model.stablehlo").read_bytes()  # file names of this machine
    card = (moved / "README.md").read_text()
    sessions = json.loads((run / "evidence.json").read_text())["sessions"]
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for words in (
        "| `image` | uint8 | [b, 64, 64, 3] |",
        f"| `probability` | float32 | [b, 64, 64, {len(model.class_names)}] |",
        sessions[0]["data"]["train"],
        f"{row['val/mIoU']:.4f}",
        "the weights: CC-BY-4.0.",
        "Resize the image to 64x64 pixels",
        *model.class_names,
    ):
        assert words in card, words
    assert "The border" not in card, "a stretched image fills its canvas"


def test_a_run_has_its_classes_without_the_data(run):
    config = read_config(run)
    model = load_model(config, run, "last", "auto", None)
    assert find_classes(config, run, "/nowhere") == model.class_names
    assert model.category_ids == tuple(range(len(model.class_names))), "as in its masks"
    config.data.name = "cityscapes"
    with pytest.raises(UserError, match="cityscapes"):
        find_classes(config, run, "/nowhere")


def test_file_with_torchvision_names_has_the_same_variables(run):
    """For a segmenter they are the variables of the backbone, from which another run can start."""
    config = read_config(run)
    model = load_model(config, run, "last", "auto", None)
    path = run / "export" / "last-auto-0" / "weights_torchvision.safetensors"
    export(command(run, licence="CC-BY-4.0"))
    blank = jax.tree.map(np.zeros_like, model.variables)
    loaded, new, _ = load_weights(str(path), model.architecture, blank, model.class_names)
    own = {name for name in loaded if name.startswith("backbone/")}
    assert own and set(new) == loaded.keys() - own
    for name in own:
        np.testing.assert_array_equal(loaded[name], model.variables[name])


def test_an_export_is_never_overwritten(run, capsys):
    export(command(run, licence="CC-BY-4.0"))
    export(command(run, licence="CC-BY-4.0"))
    assert "(already written)" in capsys.readouterr().out
    folder = run / "export" / "last-auto-0"
    card = (folder / "README.md").read_text()
    with pytest.raises(
        UserError, match=r"is there already, with another README\.md; delete it, or name another --output$"
    ):
        export(command(run, licence="another"))
    assert (folder / "README.md").read_text() == card
    config = read_config(run)
    config.data.image_size = (64, 96)
    export(command(run, config=config))
    (other,) = (place for place in folder.parent.iterdir() if place != folder)
    assert "| `image` | uint8 | [b, 64, 96, 3] |" in (other / "README.md").read_text()


@pytest.mark.parametrize(
    "name", [name if name == "ssd300" else pytest.param(name, marks=pytest.mark.slow) for name in published.DETECTORS]
)
def test_detector_with_torchvision_names_can_be_read(name, tmp_path):
    """All names and arrays equal those of torchvision's own file."""
    config = published.configure(name, small=True)
    if name == "ssd300":
        config.model.update(fc=16, backbone=dict(width=0.07))
    columns = len(CLASSES) + (name in ("ssd300", *published.TWO_STAGES))
    architecture, shapes, _ = states.describe(config, len(CLASSES))
    variables = {key: np.zeros(own.shape, own.dtype) for key, own in shapes.items()}
    file = published.draw_file(name, config, columns)
    save_file(file, tmp_path / "theirs.safetensors")
    loaded, new, _ = load_weights(str(tmp_path / "theirs.safetensors"), architecture, variables, CLASSES)
    assert not new
    written = name_by_torchvision(architecture.merge(loaded), loaded)
    assert written.keys() == file.keys()
    for key, value in written.items():
        np.testing.assert_array_equal(value, file[key], err_msg=key)


def test_a_part_of_an_array_is_not_exported():
    """SSD's fc6 keeps every third tap of VGG's, so it cannot be exported in VGG's names."""
    config = published.configure("ssd300", small=True)
    model = states.blueprint(config, len(CLASSES))
    weights = model.pretrained(["features.0.weight", "classifier.0.weight"])
    assert weights.arrays["backbone", "fc6", "kernel"][1].back is None
    config = configure("yolov1_shapes")
    _, variables = build(config)
    assert name_by_torchvision(states.describe(config, len(CLASSES))[0].merge(variables), variables) == {}
