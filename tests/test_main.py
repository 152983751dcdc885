"""main.py from the outside, with the line of each mistake and the files that a run leaves behind."""

import hashlib
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.main_server import run_main

ROOT = pathlib.Path(__file__).parents[1]
DEBUG = "--config=configs/unet_shapes.py:debug"
SMALL = "--config=tests/small_unet.py"


def run(*arguments: str, data_dir: str = "/nowhere") -> subprocess.CompletedProcess:
    return run_main(f"--tfds_data_dir={data_dir}", *arguments)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_dir) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("run") / "trained"
    done = run(SMALL, f"--workdir={workdir}", "--profile", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    assert "predictions next to the ground truth" in done.stdout and "mIoU" in done.stdout
    first = done.stdout[done.stdout.index("data  ") :].splitlines()
    names = ["data", "model", "training", "augmentation", "evaluation", "devices", "results", "compiling", "compiled"]
    assert [line.split()[0] for line in first[: len(names)]] == names
    assert "600 images to train on" in first[0] and "trained parameters" in first[1] and "GFLOP per image" in first[8]
    assert first[9].startswith("step 1/6  loss ") and "input-bound" in first[9] and "\x1b" not in done.stdout
    return workdir


def rows(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def strip(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--config=configs/unet_shapes.py", "--config.optim.lrr=1"], ["lrr"]),
        (["--config=configs/unet_shapes.py", "--config.optim.lr=fast"], ["lr", "fast"]),
        (["--config=configs/unet_shapes.py:tiny"], ["tiny", "debug"]),
        (["--config=configs/unet_shape.py"], ["unet_shape.py"]),
        (["--config=configs/unet_shapes.py", "--mode=trian"], ["trian", "train"]),
        (["--config=configs/unet_shapes.py", "--workdri=x"], ["workdri"]),
        (["--config=configs/unet_shapes.py", "--workdir="], ["--workdir"]),
        ([DEBUG, "--workdir=runs/$NO_SUCH"], ["--workdir=runs/$NO_SUCH", "variable"]),
        ([], ["--config"]),
        ([DEBUG, "train"], ["'train'", "--name=value"]),
        ([DEBUG, "--config.model.name=unet_mobilenet"], ["unet_mobilenet", "unet_mobilenetv2"]),
        ([SMALL, "--config.train.best=val/miou"], ["val/miou", "val/mIoU"]),
        ([SMALL, "--config.train.batch_size=5", "--config.optim.accumulate=2"], ["batch_size=5", "multiple of 2"]),
        ([SMALL, "--config.data.name=shape"], ["shape", "shapes"]),
        (["--config=configs/unet_pets.py"], ["oxford_iiit_pet", "tfds_data_dir"]),
        (["--config=configs/unet_masks.py", "--config.data.folder.root=/nowhere"], ["/nowhere"]),
        (["--mode=evaluate"], ["no run", "--mode=train"]),
        ([DEBUG, f"--workdir=/tmp/{'n' * 300}"], ["n" * 300, "File name too long"]),
        ([DEBUG, "--pretrained=x"], ["pretrained"]),
        ([SMALL, "--config.pretrained=/nowhere.safetensors"], ["/nowhere.safetensors", "safetensors"]),
        ([SMALL, "--config.init_from=/nowhere"], ["/nowhere"]),
        ([SMALL, "--config.eval.method=tiles"], ["eval.method", "tiles", "window"]),
        ([DEBUG, "--config.data.margin=32"], ["data.margin=32", "image_size"]),
        ([SMALL, "--config.task.losses.dise.factor=1.0"], ["does not have this field", "dise", "dice"]),
        ([SMALL, "--config.task.class_weights=(1.0, 2.0)"], ["task.class_weights", "2", "6", "datacheck"]),
        (["--config=configs/unet_isbi.py:debug", "--config.data.weight_map=(10.0, 5.0)"], ["weight_map", "instances"]),
        (["--config=configs/unet_isbi.py:debug", "--config.data.margin=21"], ["data.margin=21", "must be 20"]),
        (["--config=configs/unet_isbi.py:debug", "--config.data.image_size=(105, 105)"], ["105", "104 or 108"]),
        (["--config=configs/fcn8s_voc.py"], ["voc_segmentation", "folder.root"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(tmp_path, data_dir, arguments, names):
    workdir = tmp_path / "run"
    place = data_dir if {SMALL, DEBUG} & {*arguments} or "unet_isbi" in str(arguments) else tmp_path / "no data"
    named = any(argument.startswith("--workdir=") for argument in arguments)
    done = run(*([] if named else [f"--workdir={workdir}"]), *arguments, data_dir=place)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert all(name in lines[0] for name in names), lines[0]
    assert not workdir.exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tmp_path, data_dir):
    fields = ["--config.optim.lr=1e38", "--config.train.eval_every=100", "--config.train.checkpoint_every=1"]
    done = run(SMALL, f"--workdir={tmp_path / 'run'}", *fields, data_dir=data_dir)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]  # XLA may have complained of a slow machine before
    assert line.startswith("error: the loss of step") and "(train_0" in line and "optim.lr" in line
    step = int(line.split("step ")[1].split()[0])
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints" / "last").iterdir()]
    assert max(saved) < step, "no checkpoint of a state behind a loss that was not finite"


def test_a_workdir_with_another_config_is_left_alone(trained, data_dir):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    done = run(SMALL, f"--workdir={trained}", "--config.optim.lr=0.5", data_dir=data_dir)
    assert done.returncode == 1
    assert "optim.lr is 0.003 there, 0.5 now" in done.stderr and len(done.stderr.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()} == before


def test_a_run_leaves_what_its_directory_promises(trained):
    written = rows(trained)
    assert [row["step"] for row in written] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(row["train/loss"]) for row in written)
    scored = [row for row in written if "val/mIoU" in row]
    assert [row["step"] for row in scored] == [3, 6]
    assert {"val/loss", "val/pixel_accuracy", "val/Dice", "val/IoU/background"} <= scored[0].keys()
    for row in scored:
        assert all((trained / row[f"val/{kind}"]).stat().st_size > 1000 for kind in ("examples", "confusion"))
        table = (trained / row["val/classes"]).read_text().splitlines()
        assert table[0].startswith("class,IoU") and table[1].startswith("background,")
    assert json.loads((trained / "config.json").read_text())["optim"]["lr"] == 0.003
    session = json.loads((trained / "evidence.json").read_text())["sessions"][-1]
    assert session["last_step"] == 6 and session["compilations"] == 2
    assert session["devices_of_run"] == session["devices"]["count"] and session["runs_on_devices"] == 1
    assert session["parameters"] > 1000 and session["flops_per_step"] > 1e6
    assert sorted(path.name for path in (trained / "checkpoints" / "last").iterdir()) == ["3", "6"]
    assert len(list((trained / "checkpoints" / "best").iterdir())) == 1
    assert list((trained / "profile").rglob("*.xplane.pb"))


def test_the_finished_run_started_again_changes_nothing(trained, data_dir):
    before = (trained / "metrics.jsonl").read_bytes()
    done = run(SMALL, f"--workdir={trained}", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_evaluate_repeats_the_score_of_training(trained, data_dir):
    done = run("--mode=evaluate", "--checkpoint=last", f"--workdir={trained}", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    summary = json.loads(next((trained / "records").glob("*-last-auto-6.json")).read_text())
    last = rows(trained)[-1]
    assert summary["scores"]["mIoU"] == last["val/mIoU"]
    assert summary["scores"]["loss"] == pytest.approx(last["val/loss"], rel=1e-6)
    records = [
        json.loads(line) for line in next((trained / "records").glob("*-last-auto-6.jsonl")).read_text().splitlines()
    ]
    assert len(records) == summary["images"] == len({row["image_id"] for row in records})


@pytest.fixture
def older(trained, tmp_path) -> pathlib.Path:
    """A run of older code, without three of the fields and without a stored W&B id."""
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    config = json.loads((workdir / "config.json").read_text())
    del config["eval"]["method"], config["optim"]["partition"], config["wandb"]["group"]
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "wandb_id").unlink()
    return workdir


@pytest.mark.slow
def test_a_run_that_lacks_newer_fields_resumes_evaluates_and_predicts(older, data_dir):
    stored = (older / "config.json").read_text()
    shutil.rmtree(older / "checkpoints" / "last" / "6")
    before = rows(older)
    done = run(SMALL, f"--workdir={older}", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    assert "at step 3 of 6" in done.stdout
    assert [strip(row) for row in rows(older)] == [strip(row) for row in before]
    # The older code took the sha256 of [config, name] as the id.
    config = json.dumps(json.loads(stored), sort_keys=True)
    expected = hashlib.sha256(json.dumps([config, older.name]).encode()).hexdigest()[:16]
    assert (older / "wandb_id").read_text() == f"{expected}\n" and (older / "config.json").read_text() == stored
    done = run("--mode=evaluate", "--checkpoint=last", f"--workdir={older}", data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    result = json.loads((older / "records" / "validation[:24]-last-auto-6.json").read_text())
    assert result["scores"]["mIoU"] == before[-1]["val/mIoU"] and result["config"] == {}
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(older / "image.png")
    done = run("--mode=predict", f"--workdir={older}", f"--inputs={older / 'image.png'}")
    assert done.returncode == 0 and "1 of 1 images" in done.stdout, done.stderr


def test_a_run_that_lacks_a_field_of_its_model_is_one_line(older, data_dir):
    config = json.loads((older / "config.json").read_text())
    del config["model"]["padding"]
    (older / "config.json").write_text(json.dumps(config))
    done = run("--mode=evaluate", f"--workdir={older}", data_dir=data_dir)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "padding" in done.stderr, done.stderr
    flag = "--config.model.padding=same"
    assert "padding" in run("--mode=evaluate", f"--workdir={older}", flag, data_dir=data_dir).stderr


@pytest.mark.slow
def test_evaluate_takes_fields_over_the_config_of_the_run(trained, data_dir):
    def evaluate(*flags: str) -> set[str]:
        done = run(
            "--mode=evaluate", "--checkpoint=last", "--weights=raw", f"--workdir={trained}", *flags, data_dir=data_dir
        )
        assert done.returncode == 0, done.stderr
        return {path.name for path in (trained / "records").glob("*-last-raw-6*.json")}

    plain = evaluate()
    assert plain == {"validation[:24]-last-raw-6.json"}
    own = (trained / "records" / "validation[:24]-last-raw-6.json").read_bytes()
    (zoomed,) = evaluate("--config.eval.scales=(1.0, 0.5)", "--config.eval.batch_size=4") - plain
    assert (trained / "records" / "validation[:24]-last-raw-6.json").read_bytes() == own
    results = [json.loads((trained / "records" / name).read_text()) for name in (*plain, zoomed)]
    assert [result["config"] for result in results] == [{}, {"eval.batch_size": 4, "eval.scales": [1.0, 0.5]}]
    assert results[0]["scores"]["loss"] != results[1]["scores"]["loss"]
    assert (trained / "records" / zoomed).with_suffix(".jsonl").exists()
    assert (trained / "predictions" / f"{pathlib.Path(zoomed).stem}-examples.png").exists()
    # The same fields are the same result, however they are given.
    assert evaluate(SMALL, "--config.eval.batch_size=4", "--config.eval.scales=(1.0, 0.5)") == {*plain, zoomed}


@pytest.mark.parametrize("mode", ["evaluate", pytest.param("predict", marks=pytest.mark.slow)])
def test_a_mode_starts_in_a_process_of_its_own_and_prints_no_error(trained, tmp_path, data_dir, mode):
    """The other tests fork a process that has imported every mode."""
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "image.png")
    flags = [f"--mode={mode}", f"--workdir={trained}", f"--tfds_data_dir={data_dir}"]
    flags += [f"--inputs={tmp_path / 'image.png'}", f"--output={tmp_path / 'out'}"] * (mode == "predict")
    done = subprocess.run([sys.executable, "main.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_predict_takes_fields_over_the_config_of_the_run(trained, tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "image.png")
    for flags in ([], ["--config.eval.flip=True"]):
        done = run(
            "--mode=predict", "--weights=raw", f"--workdir={trained}", f"--inputs={tmp_path / 'image.png'}", *flags
        )
        assert done.returncode == 0, done.stderr
    assert len(list((trained / "predictions").glob("best-raw-*"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode=evaluate", "--config.eval.metod=whole"], ["metod"]),
        (["--mode=evaluate", "--config.eval.batch_size=many"], ["batch_size", "many"]),
        (["--mode=evaluate", "--config.optim.lr.rate=1"], ["lr"]),
        (["--mode=train", "--config.optim.lr=1"], ["--config is missing"]),
        (["--mode=datacheck"], ["--config is missing"]),
    ],
)
def test_a_mistake_in_a_field_of_a_run_is_one_line(trained, arguments, words):
    done = run(f"--workdir={trained}", *arguments)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ") and all(word in done.stderr for word in words), done.stderr


def test_a_config_that_is_not_json_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    done = run("--mode=evaluate", f"--workdir={tmp_path}")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "config.json is not JSON" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_stop_before_jax_has_loaded_has_its_exit_code(tmp_path, number, mode):
    command = [sys.executable, "main.py", DEBUG, f"--workdir={tmp_path / 'run'}", f"--mode={mode}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    status = pathlib.Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) & 1 << (signal.SIGUSR1 - 1):
        time.sleep(0.001)
    assert "jaxlib" not in pathlib.Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and (output, errors) == ("", "stopped: start the same command again\n")


def test_a_time_limit_before_the_first_step_says_so(tmp_path, data_dir):
    done = run(DEBUG, f"--workdir={tmp_path / 'run'}", "--config.train.max_minutes=0.001", data_dir=data_dir)
    assert done.returncode == 75 and done.stderr == "", done.stderr
    assert done.stdout.startswith("stopped by train.max_minutes=0.001 before the first step, with nothing to save; ")


def test_an_error_of_the_code_has_a_traceback(tmp_path):
    (tmp_path / "config.py").write_text("def get_config(): 1 / 0\n")
    done = run(f"--config={tmp_path / 'config.py'}")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


def test_help_lists_the_flags():
    done = run("--help")
    assert (
        all(f"--{name}" in done.stdout for name in ("config", "mode", "workdir", "inputs"))
        and "datacheck" in done.stdout
    )


@pytest.mark.slow
def test_the_batch_size_of_evaluation_does_not_change_the_score(trained, data_dir):
    scores = []
    for size in (7, 64):
        size_flag = f"--config.eval.batch_size={size}"
        done = run(SMALL, "--mode=evaluate", "--checkpoint=last", f"--workdir={trained}", size_flag, data_dir=data_dir)
        assert done.returncode == 0, done.stderr
        results = [json.loads(path.read_text()) for path in (trained / "records").glob("*-last-auto-6-*.json")]
        scores += [result["scores"] for result in results if result["config"] == {"eval.batch_size": size}]
    assert len(scores) == 2 and scores[0]["mIoU"] == scores[1]["mIoU"]


def test_predict_writes_masks_at_the_original_size_and_skips_what_it_cannot_read(trained, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    sizes = {"tall.png": (130, 41), "wide.jpg": (33, 200), "dot.png": (1, 1)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not an image")
    output = tmp_path / "out"
    done = run("--mode=predict", f"--workdir={trained}", f"--inputs={folder}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "3 of 4 images, 1 skipped" in done.stdout
    assert "broken.jpg" in done.stderr
    for name, size in sizes.items():
        mask = Image.open(output / f"{pathlib.Path(name).stem}_mask.png")
        assert mask.mode == "P" and mask.size == size[::-1]
        drawn = Image.open(output / f"{pathlib.Path(name).stem}_overlay.png").size  # a legend is below the image
        assert drawn[0] >= size[1] and drawn[1] > size[0]
    again = run("--mode=predict", f"--workdir={trained}", f"--inputs={folder}", f"--output={output}")
    assert again.returncode == 1 and "not an empty folder" in again.stderr


def test_predict_without_images_is_one_line(trained, tmp_path):
    done = run("--mode=predict", f"--workdir={trained}", f"--inputs={tmp_path}")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
