"""Whole detectors with torchvision's weights find what torchvision finds, and need no training for it."""

import json
import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.run.model import load_model
from experiments.tasks.registry import make_task
from tests import published

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
STORED = 60  # detections


def detect(model, config, image):
    """What our model finds in an image as it is, by falling score."""
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


def load(name, config, place, arrays):
    save_file(arrays, place / f"{name}.safetensors")
    config.pretrained = str(place / f"{name}.safetensors")
    return load_model(config, place / "run", "best", "auto", None)


def assert_same(found, expected, pixels, score):
    """The same detections; two whose scores differ by less than `score` may have changed places."""
    found, expected = ({name: np.asarray(rows) for name, rows in side.items()} for side in (found, expected))
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=score)
    same = found["classes"][:, None] == expected["classes"]
    same &= np.abs(found["scores"][:, None] - expected["scores"]) <= score
    same &= np.abs(found["boxes"][:, None] - expected["boxes"]).max(-1) <= pixels
    assert same.any(0).all() and same.any(1).all(), (np.flatnonzero(~same.any(0)), np.flatnonzero(~same.any(1)))


@pytest.mark.parametrize("name", published.DETECTORS)
def test_detections_are_those_that_torchvision_found(name, tmp_path):
    """Stored by `store` below, for machines without PyTorch."""
    config = published.configure(name, small=True)
    model = load(name, config, tmp_path, published.draw_file(name, config))
    found = detect(model, config, published.draw_image(published.SIZES[name]))
    found = {key: rows[:STORED] for key, rows in found.items()}
    expected = json.loads((GOLDEN / f"{name}_torchvision.json").read_text())
    assert_same(found, expected, 1e-3, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", published.DETECTORS)
def test_detections_equal_torchvisions(name, tmp_path):
    pytest.importorskip("torchvision", reason="compares with torchvision")
    config = published.configure(name, small=False)
    arrays, image = published.draw_file(name, config), published.draw_image(published.SIZES[name])
    expected = published.detect(published.build_network(name, config, arrays), image)
    found = detect(load(name, config, tmp_path, arrays), config, image)
    assert len(expected["scores"]) > 50 and np.diff(expected["scores"]).max() < 0, "untied"
    assert_same(found, expected, 1e-3, 1e-3)


def store():
    """Write the known answers with torchvision: run this file with Python where PyTorch, torchvision and jax are."""
    for name in published.DETECTORS:
        config = published.configure(name, small=True)
        network = published.build_network(name, config, published.draw_file(name, config))
        found = published.detect(network, published.draw_image(published.SIZES[name]))
        known = {key: rows[:STORED].astype(float).round(4).tolist() for key, rows in found.items()}
        (GOLDEN / f"{name}_torchvision.json").write_text(json.dumps(known) + "\n")


if __name__ == "__main__":
    store()
