"""The benchmarks, with tiny networks."""

import json
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from benchmarks import accelerator, history, preflight
from configs import segmentation_history
from errors import UserError
from experiments.run.config_file import resolve

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_members_benchmark_compares_equal_losses():
    command = [sys.executable, "-m", "benchmarks.members", "--config=configs/unet_shapes.py:debug", "--batch_size=2"]
    arguments = ["--members=3", "--steps=3", "--config.optim.name=sgd", "--config.model.depth=0.1"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["members"] == 3 and result["speedup"] > 0
    assert max(result["differences"]) < 1e-3
    both = result["memory_mb"]
    assert both["vmapped"]["between"] > 2 * both["in_turn"]["between"]


@pytest.mark.slow
def test_the_accelerator_check_kills_resumes_and_compares(data_dir):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--platform=cpu", f"--tfds_data_dir={data_dir}"]
    arguments = ["--configs=unet_shapes:debug", "--steps=12", "--saved=4", "--timed=unet_shapes:debug=4"]
    tests = "--tests=experiments/run/test_tables.py"
    done = subprocess.run([*command, *arguments, tests], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal, SHA-256") == 2 and "all checks passed" in done.stdout


def test_the_accelerator_check_needs_an_accelerator(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accelerator"])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert accelerator.main() == 1
    assert "no accelerator here" in capfd.readouterr().err


def test_the_accelerator_check_detects_a_difference():
    rows = [{"step": 1, "train/loss": 0.5, "time/images_per_second": 3.0}]
    assert accelerator.compare(rows, [rows[0] | {"time/images_per_second": 9.0}])
    assert not accelerator.compare(rows, [rows[0] | {"train/loss": 0.50001}])


@pytest.mark.slow
def test_the_saves_benchmark_prints_a_row_per_config_and_leaves_no_files(tmp_path):
    command = [sys.executable, "-m", "benchmarks.saves", f"--folder={tmp_path}", "--saves=1"]
    done = subprocess.run([*command, "--configs=unet_shapes:debug=3"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, _, row = done.stdout.splitlines()
    assert header.count("|") == row.count("|") and row.startswith("| `unet_shapes:debug` | ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "step"),
    [
        pytest.param("unet_pets", "training", marks=pytest.mark.slow),
        pytest.param("ssd_shapes", "training", marks=pytest.mark.slow),
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
    # Both are rounded.
    assert abs(2e3 / result["step_ms"] - result["images_per_second"]) < 0.05 * result["images_per_second"]


@pytest.mark.slow
def test_the_box_operations_benchmark_prints_a_json_line_per_operation():
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


def make_sweep(folder, names, done=True):
    """Write a sweep whose runs have rows, and configs of tiny networks. Return its folder."""
    runs = []
    for name, config in names.items():
        place = folder / f"{name}-0"
        place.mkdir(parents=True)
        (place / "config.json").write_text(resolve(config))
        row = {"step": config.train.steps if done else 1, "val/mIoU": 0.5, "val/boundary_IoU": 0.25}
        (place / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        runs.append({"run": name, "directory": place.name, "seconds": 90.0, "state": "done" if done else "failed"})
    left = runs[0] | {"directory": "left_over", "state": "failed"}
    (folder / "sweep.json").write_text(json.dumps({"runs": [left, *runs] if done else runs}))
    return folder


def test_a_history_has_finished_runs_in_the_order_of_years(tmp_path):
    config = segmentation_history.get_config("debug")
    runs = history.read_runs(make_sweep(tmp_path / "a", {"own": config, "deeplabv3plus": config, "fcn8s": config}))
    assert [run["name"] for run in runs] == ["fcn8s", "deeplabv3plus", "own"]
    assert runs[0]["scores"] == {"mIoU": 0.5, "boundary_IoU": 0.25}
    with pytest.raises(UserError, match="own-0 has not finished"):
        history.read_runs(make_sweep(tmp_path / "b", {"own": config}, done=False))
    with pytest.raises(UserError, match="has no sweep"):
        history.read_runs(tmp_path)


@pytest.mark.slow
def test_the_history_prints_a_table_and_draws_a_picture(tmp_path):
    folder = make_sweep(tmp_path / "a", {"fcn32s": segmentation_history.get_config("debug")})
    command = [sys.executable, "-m", "benchmarks.history", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, _, row = done.stdout.splitlines()
    cells = dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert (cells["method"], cells["year"], cells["mIoU"], cells["minutes"]) == ("FCN-32s", "2015", "0.500", "1.5")
    assert float(cells["inference images/s"].replace(",", "")) > float(cells["training images/s"].replace(",", "")) > 0
    assert Image.open(folder / "history.png").width > 400
    (stored,) = json.loads((folder / "history.json").read_text())
    assert stored["parameters"] > 1000 and stored["training memory MB"] > 0


def test_killed_preflights_resume(tmp_path, monkeypatch, capsys):
    """Incomplete lines are skipped and failed cases run again, but finished ones do not."""
    began = []

    def run(case: dict) -> dict:
        began.append(case["config"])
        return case | {"error": "no memory", "code": 1, "seconds": 1}

    monkeypatch.setattr(preflight, "run_case", run)
    first, second, third, *others = preflight.list_cases(debug=False)
    one = {"needed_mb": 80.0, "taken_mb": 90.0, "gflop": 1500.0, "compile_s": 60.0, "collectives": {}}
    line = {
        "step_s": 0.002,
        "bound": "memory",
        "images_per_second": 8000.0,
        "efficiency": 0.5,
        "efficiency_at_best": 1.0,
    }
    found = {"batch_size": 16, "chips": 4, "capacity_mb": 900.0, "fits": True, "all_reduced_of_parameters": 1.0}
    done = first | {"code": 0, "result": found | {"training": one, "evaluation": {"8x8": one}, "roofline": line}}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "\n".join(map(json.dumps, (done, second | {"error": "killed"}))) + "\n" + json.dumps(third)[:-9] + "\n"
    )
    monkeypatch.setattr(sys, "argv", ["", str(rows)])
    assert preflight.main() == 1
    assert began == [case["config"] for case in (second, third, *others)]
    table = capsys.readouterr().out.splitlines()[-len(began) - 1 :]
    assert table[0].startswith(
        "| `unet_pets` | v5e:2x2 | 4 | 80, 90 | 10% | 1.5 | 0.0, 1.00 | 2.00 (memory) | 8,000 | 50.0%, 100.0% |"
    )
    assert all("no memory" in line for line in table[1:])


def test_the_batches_of_preflights_divide_among_chips():
    for debug in (False, True):
        for case in preflight.list_cases(debug):
            (size,) = [int(flag.partition("=")[2]) for flag in case["flags"] if "train.batch_size" in flag]
            assert size % preflight.SLICES[case["topology"]] == 0
