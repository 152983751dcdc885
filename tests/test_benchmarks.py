import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("config", "step"),
    [
        pytest.param("unet_pets", "training", marks=pytest.mark.slow),
        ("ssd_shapes", "training"),
        ("ssd_shapes", "inference"),
        pytest.param("yolov1_shapes", "training", marks=pytest.mark.slow),
    ],
)
def test_the_steps_benchmark_prints_one_line_of_json(config, step):
    arguments = [f"--config=configs/{config}.py:debug", "--batch_size=2", *["--inference"] * (step == "inference")]
    command = [sys.executable, "-m", "benchmarks.train_step", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert (result["step"], result["batch_size"]) == (step, 2)
    for name in ("parameters", "images_per_second", "step_ms", "compile_seconds", "gflop_per_step"):
        assert result[name] > 0, name
    floats = 4 * result["parameters"] / 1e6
    memory = result["memory_mb"]
    assert memory["arguments"] > floats and memory["between"] > floats / 10
    # Both are rounded for reading.
    assert abs(2e3 / result["step_ms"] - result["images_per_second"]) < 0.05 * result["images_per_second"]


def test_the_box_operations_benchmark_prints_a_line_of_json_an_operation():
    command = [sys.executable, "-m", "benchmarks.box_operations", "--batch_size=1", "--runs=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    aligned = [f"roi_align by {form}{backward}" for form in ("gathers", "matrices") for backward in ("", ", backward")]
    pooled = ["roi_pool", "roi_pool, backward", "spatial_pyramid_pool"]
    assert [result["operation"] for result in results] == [
        "nms",
        "bipartite",
        "threshold",
        "propose",
        *aligned,
        *pooled,
        "warp",
    ]
    assert [result.get("anchors", result.get("boxes")) for result in results[:4]] == [8732, 8732, 120240, 36828]
    for result in results:
        assert result["batch_size"] == 1 and result["ms"] > 0 and result["platform"]
