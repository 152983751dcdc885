"""The conversion of every family to ONNX, with equal values in onnxruntime and jax.

It needs the environment that `make onnx` makes.
"""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import onnx
from experiments.run import state as states
from experiments.run.config_file import resolve
from experiments.run.weights_file import pack_weights
from models.ops import nms
from tests.experiments.test_export import CLASSES, FAMILIES, build, configure

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / ".venv-onnx" / "bin" / "python"


def write(folder, config):
    """Write the files of an export that the command reads, with random weights. Return the weights."""
    _, variables = build(config)
    classes = [{"name": name, "id": number} for number, name in enumerate(CLASSES)]
    (folder / "config.json").write_text(resolve(config))
    (folder / "classes.json").write_text(json.dumps(classes))
    (folder / "weights.safetensors").write_bytes(pack_weights(variables))
    return variables


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_converts_and_computes_the_same(name, tmp_path):
    if not PYTHON.exists():
        pytest.skip("needs jax2onnx and onnxruntime: `make onnx EXPORT=DIR` installs them into .venv-onnx")
    config = configure(name)
    write(tmp_path, config)
    command = [PYTHON, "-m", "experiments.onnx", tmp_path, "--batch_size=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "onnx" in line.lower()]  # no warnings about constants
    place, differences = done.stdout.splitlines()
    assert place.startswith(f"{tmp_path / 'model.onnx'}: ")
    assert place.endswith("2 images" if "score_threshold" in config.task else "any number of images")
    found = dict(part.split() for part in differences.partition(": ")[2].split(", "))
    assert found and all(float(value) < 1e-3 for value in found.values()), differences


def test_missing_package_prints_a_one_line_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert onnx.main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.err == (
        f"error: jax2onnx is not installed; run `make onnx EXPORT={tmp_path}`, which makes an environment with it\n"
    )


def test_a_folder_without_an_export_is_refused(tmp_path, capsys, monkeypatch):
    for name in ("jax2onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, object())
    assert onnx.main([str(tmp_path)]) == 1
    assert "has no export (no classes.json); make one with --mode=export" in capsys.readouterr().err
    config = configure("yolov1_shapes")
    variables = write(tmp_path, config)
    program, stored, free = onnx._read_export(tmp_path)
    assert not free and program.specify(2)["image"].shape == (2, 64, 64, 3)
    assert stored.keys() == variables.keys() == states.describe(config, len(CLASSES))[1].keys()


def test_implementations_for_onnx_compute_the_same_values():
    rng = np.random.default_rng(0)
    for number in range(5):
        corners = np.sort(rng.uniform(0, 20, (2, 40, 2)), axis=0)
        boxes = jnp.concatenate([*corners], -1)
        scores = jnp.array(rng.integers(0, 9, 40), jnp.float32)  # many are equal
        classes = jnp.array(rng.integers(0, 2, 40)) if number % 2 else None
        arguments = dict(iou=0.3, count=(10, 60)[number % 2], classes=classes)
        valid = jnp.array(rng.random(40) > 0.2)
        expected, found = (form(boxes, scores, valid, **arguments) for form in (nms.suppress, onnx._suppress))
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
    images = rng.normal(size=(2, 9, 7, 3)).astype(np.float32)
    for size, stride, pads in ((2, 2, ((0, 1), (0, 1))), (3, 2, ((1, 1), (0, 2))), (3, 1, ((1, 1), (1, 1)))):
        np.testing.assert_array_equal(
            onnx._max_pool(size, stride, pads, images), onnx.pooling._native_max_pool(size, stride, pads, images)
        )


def test_wrong_values_are_refused():
    expected = np.linspace(0, 1, 1000, dtype=np.float32)
    swapped = expected.copy()
    swapped[[0, 999]] = swapped[[999, 0]]
    assert onnx._compare("scores", expected, swapped) == 1  # two of a thousand values differ
    with pytest.raises(onnx.UserError, match="scores: 100% of onnxruntime's values differ from jax's"):
        onnx._compare("scores", expected, expected[::-1])
    with pytest.raises(onnx.UserError, match="100% of"):
        onnx._compare("scores", expected, np.full_like(expected, np.nan))
    with pytest.raises(onnx.UserError, match="float64"):
        onnx._compare("scores", expected, expected.astype(np.float64))
