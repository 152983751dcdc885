"""Detectors with torchvision's weights, whose detections equal torchvision's without training."""

import hashlib
import importlib
import json
import pathlib
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from errors import UserError
from experiments.command_line import Command
from experiments.evaluate import evaluate
from experiments.predict import predict
from experiments.run.model import load_model
from experiments.tasks.registry import make_task
from input_pipeline.datasets.coco import CATEGORY_IDS, CLASS_NAMES
from input_pipeline.datasets.shapes import FIGURES
from tests import published

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
STORED = 60  # stored detections per image
NUMBERED = dict(zip(CATEGORY_IDS, CLASS_NAMES, strict=True))


def detect(model, config, image):
    """Return the detections of our model in an image, which is not resized, by falling score."""
    height, width = image.shape[:2]
    task = make_task(config, model.class_names)
    batch = {"image": image[None], "original_size": np.asarray([[height, width]], np.int32)}
    batch["to_original"] = np.eye(2, 3, dtype=np.float32)[None]

    @jax.jit
    def run(variables, batch):
        outputs = task.apply(model.architecture.merge(variables), batch, train=False, rngs=None)
        return task.predict(outputs, batch)

    found = {name: np.asarray(rows[0]) for name, rows in run(model.variables, batch).items()}
    return {name: rows[found["valid"]] for name, rows in found.items() if name != "valid"}


def choose(found):
    """Return the stored part, the best detections and every fourth row and column of their masks."""
    found = {key: rows[:STORED] for key, rows in found.items() if key != "pixels"}
    return found | {key: found[key][:, ::4, ::4] for key in found if key == "masks"}


def load(name, config, place, arrays):
    save_file(arrays, place / f"{name}.safetensors")
    config.pretrained = str(place / f"{name}.safetensors")
    return load_model(config, place / "run", "best", "auto", None)


def assert_same(found, expected, pixels, score):
    """Assert that detections are equal. Two whose scores differ by less than `score` may change places."""
    found, expected = ({name: np.asarray(rows) for name, rows in side.items()} for side in (found, expected))
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=score)
    same = found["classes"][:, None] == expected["classes"]
    same &= np.abs(found["scores"][:, None] - expected["scores"]) <= score
    same &= np.abs(found["boxes"][:, None] - expected["boxes"]).max(-1) <= pixels
    if "masks" in found:
        same &= np.abs(found["masks"][:, None] - expected["masks"]).max((2, 3)) <= score
    assert same.any(0).all() and same.any(1).all(), (np.flatnonzero(~same.any(0)), np.flatnonzero(~same.any(1)))


SLOW = ("ssd300", "faster_rcnn", "retinanet", "fcos")  # a Mask R-CNN is a Faster R-CNN too
FOUND = ["mask_rcnn", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("name", FOUND)
def test_detections_equal_stored_ones_of_torchvision(name, tmp_path):
    """Function `store` below has stored the detections, for machines without PyTorch."""
    config = published.configure(name, small=True)
    model = load(name, config, tmp_path, published.draw_file(name, config))
    found = detect(model, config, published.draw_image(published.SIZES[name]))
    found = choose(found)
    expected = json.loads((GOLDEN / f"{name}_torchvision.json").read_text())
    assert_same(found, expected, 1e-3, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", published.DETECTORS)
def test_detections_equal_torchvision(name, tmp_path):
    pytest.importorskip("torchvision", reason="compares with torchvision")
    config = published.configure(name, small=False)
    arrays, image = published.draw_file(name, config), published.draw_image(published.SIZES[name])
    expected = published.detect(published.build_network(name, config, arrays), image)
    found = detect(load(name, config, tmp_path, arrays), config, image)
    assert len(expected["scores"]) > 50 and np.diff(expected["scores"]).max() < 0, "untied"
    assert_same(found, expected, 1e-3, 1e-3)


def command(config, workdir, **flags):
    unset = dict(data_dir=None, checkpoint="best", weights="auto", inputs=None, output=None, profile=False)
    return Command(config, True, str(workdir), **unset | flags)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The config of a tiny SSD on the synthetic figures, and a file with all its weights."""
    config = importlib.import_module("configs.ssd300_coco").get_config("debug")
    config.data.eval_split = "validation[:8]"
    place = tmp_path_factory.mktemp("published") / "ssd.safetensors"
    save_file(published.draw_file("ssd300", config, len(FIGURES) + 1), place)
    config.pretrained = str(place)
    return config, place


def test_a_file_is_evaluated_without_training(untrained, data_dir, tmp_path, capsys):
    config, place = untrained
    evaluate(command(config, tmp_path / "run", data_dir=data_dir))
    printed = capsys.readouterr().out
    assert "not loaded: none" in printed and f"8 images of validation[:8], weights from {place}" in printed
    (record,) = (tmp_path / "run/records").glob("*.json")
    summary = json.loads(record.read_text())
    assert summary["sha256"] == hashlib.sha256(place.read_bytes()).hexdigest()
    assert (summary["step"], summary["images"], summary["pretrained"]) == (0, 8, str(place))
    assert summary["config"]["model.name"] == "ssd" and "AP" in summary["scores"]
    assert len((record.with_suffix(".jsonl")).read_text().splitlines()) == 8
    assert not (tmp_path / "run/config.json").exists(), "training may still start here"


def test_file_predicts_coco_classes_without_the_dataset(untrained, tmp_path):
    config, _ = untrained
    config = config.copy_and_resolve_references()
    config.data.name = "coco/2017"
    config.pretrained = str(tmp_path / "coco.safetensors")
    save_file(published.draw_file("ssd300", config), config.pretrained)
    Image.fromarray(published.draw_image((50, 70))).save(tmp_path / "image.png")
    flags = dict(inputs=str(tmp_path / "image.png"), output=str(tmp_path / "out"), data_dir=str(tmp_path / "nothing"))
    predict(command(config, tmp_path / "run", **flags))
    entries = json.loads((tmp_path / "out/detections.json").read_text())
    assert entries and all(entry["category_name"] == NUMBERED[entry["category_id"]] for entry in entries)
    made_with = json.loads((tmp_path / "out/made_with.json").read_text())
    assert made_with["pretrained"] == config.pretrained and len(made_with["sha256"]) == 64


def test_a_file_without_all_variables_is_refused_by_name(untrained, data_dir, tmp_path):
    config, _ = untrained
    config = config.copy_and_resolve_references()
    config.pretrained = str(tmp_path / "coco.safetensors")
    save_file(published.draw_file("ssd300", config), config.pretrained)
    for mode in (evaluate, predict):
        with pytest.raises(UserError, match="has no values for logits_0, logits_1, logits_2 of the model") as caught:
            mode(command(config, tmp_path / "run", data_dir=data_dir, inputs=__file__))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(77, 120), (200, 130)])
@pytest.mark.parametrize("name", published.DETECTORS)
def test_detections_in_an_image_file_are_near_torchvision(name, size, tmp_path):
    """Detections are resized, padded and mapped back, to within a pixel of the image and 0.02 of the score.

    Nothing is suppressed, because pixels are rounded for the network, which changes boxes with an overlap near the threshold.
    """
    pytest.importorskip("torchvision", reason="compares with torchvision")
    config = published.configure(name, small=True)
    arrays, image = published.draw_file(name, config), published.draw_image(size)
    network = published.build_network(name, config, arrays)
    network.nms_thresh = config.task.nms_iou = 1.0
    if name in published.TWO_STAGES:
        network.roi_heads.nms_thresh = network.rpn.nms_thresh = config.task.proposal_iou = 1.0
    expected = published.detect(network, image)
    config.pretrained = str(tmp_path / "w.safetensors")
    save_file(arrays, config.pretrained)
    Image.fromarray(image).save(tmp_path / "image.png")
    predict(command(config, tmp_path / "run", inputs=str(tmp_path / "image.png"), output=str(tmp_path / "out")))
    entries = json.loads((tmp_path / "out/detections.json").read_text())
    boxes = np.asarray([entry["bbox"] for entry in entries])
    found = {
        "boxes": np.concatenate([boxes[:, 1::-1], boxes[:, 1::-1] + boxes[:, :1:-1]], -1),
        "scores": np.asarray([entry["score"] for entry in entries]),
        "classes": np.asarray([CATEGORY_IDS.index(entry["category_id"]) for entry in entries]),
    }
    # Only the best detections are compared. Others have scores near the last one that is kept.
    for some, others in ((expected, found), (found, expected)):
        same = some["classes"][:STORED, None] == others["classes"]
        same &= np.abs(some["scores"][:STORED, None] - others["scores"]) <= 0.02
        near = np.abs(some["boxes"][:STORED, None] - others["boxes"]).max(-1)
        assert (same & (near <= 1)).any(1).all()


def store():
    """Write the expected detections of torchvision.

    Run this file with Python in an environment with PyTorch, torchvision and jax. Names of detectors after it restrict the
    detectors.
    """
    for name in sys.argv[1:] or published.DETECTORS:
        config = published.configure(name, small=True)
        network = published.build_network(name, config, published.draw_file(name, config))
        found = published.detect(network, published.draw_image(published.SIZES[name]))
        known = {key: rows.astype(float).round(4).tolist() for key, rows in choose(found).items()}
        (GOLDEN / f"{name}_torchvision.json").write_text(json.dumps(known) + "\n")


if __name__ == "__main__":
    store()
