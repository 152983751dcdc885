import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_the_training_steps_benchmark_prints_one_line_of_json():
    arguments = ["--config=configs/unet_pets.py:debug", "--batch_size=2"]
    command = [sys.executable, "-m", "benchmarks.train_step", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["batch_size"] == 2
    for name in ("images_per_second", "step_ms", "compile_seconds", "gflop_per_step"):
        assert result[name] > 0, name
    # Both are rounded for reading.
    assert abs(2e3 / result["step_ms"] - result["images_per_second"]) < 0.05 * result["images_per_second"]
