"""Tests of a detector from training to scores, predictions, and scores of the stored detections."""

import json
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from configs import ssd_shapes
from input_pipeline.sources import open_source
from tests.main_server import run_main

ROOT = pathlib.Path(__file__).parents[1]
TWELVE = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}


def run(*arguments: str) -> None:
    done = run_main(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("run") / "ssd"
    run("--config=configs/ssd_shapes.py:debug", f"--workdir={workdir}", f"--tfds_data_dir={data_dir}")
    return workdir


def test_a_run_leaves_scores_pictures_and_a_report_of_the_data(trained, data_dir):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {f"val/{name}" for name in TWELVE} | {"val/AP/circle", "val/AP50/ring", "val/loss"} <= rows[-1].keys()
    for kind in ("examples", "confusion", "precision_recall", "classes"):
        assert (trained / rows[-1][f"val/{kind}"]).stat().st_size > 100
    report = json.loads((trained / "datacheck.json").read_text())
    assert report["images"] == len(open_source(ssd_shapes.get_config("debug").data, "train", data_dir, ("boxes",)))
    assert report["classes"]["star"]["objects"] > 100
    assert 0 < report["matchable"] <= 1 and report["padding"]["objects_lost"] == 0
    session = json.loads((trained / "evidence.json").read_text())["sessions"][-1]
    assert session["compilations"] == 2


def test_stored_detections_have_the_scores_of_the_run(trained, data_dir, tmp_path):
    """Mode evaluate, and mode predict on the same images followed by the command, give the same scores."""
    part, data = "validation[:12]", f"--tfds_data_dir={data_dir}"
    fields = ["--config=configs/ssd_shapes.py:debug", f"--config.data.eval_split={part}"]
    run("--mode=evaluate", "--checkpoint=last", f"--workdir={trained}", data, *fields)
    scores = json.loads(next((trained / "records").glob("*-last-auto-6.json")).read_text())["scores"]

    config = ssd_shapes.get_config("debug")
    source = open_source(config.data, part, data_dir, ("boxes",))
    truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3 * i, "name": name} for i, name in enumerate(source.class_names)],
    }
    (tmp_path / "images").mkdir()
    for index in range(len(source)):
        example, name = source[index], f"{source.name(index)}.png"
        Image.fromarray(example["image"]).save(tmp_path / "images" / name)
        truth["images"].append({"id": 100 - index, "file_name": name})
        for (top, left, bottom, right), label in zip(example["boxes"].tolist(), example["classes"], strict=True):
            box = [left, top, right - left, bottom - top]
            row = {"id": len(truth["annotations"]) + 1, "image_id": 100 - index, "category_id": 3 * int(label)}
            truth["annotations"].append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    (tmp_path / "truth.json").write_text(json.dumps(truth))

    output = tmp_path / "out"
    run(
        "--mode=predict",
        "--checkpoint=last",
        f"--workdir={trained}",
        f"--inputs={tmp_path / 'images'}",
        f"--output={output}",
    )
    assert len(list(output.glob("*_boxes.png"))) == len(source)
    made_with = json.loads((output / "made_with.json").read_text())
    assert made_with["step"] == 6 and made_with["checkpoint"] in ("best", "last") and made_with["config"] == {}
    entries = json.loads((output / "detections.json").read_text())
    assert {entry["image_id"] for entry in entries} <= {image["file_name"] for image in truth["images"]}
    assert {entry["category_id"] for entry in entries} <= {1, 2, 3, 4, 5}

    files = [f"--ground_truth={tmp_path / 'truth.json'}", f"--detections={output / 'detections.json'}"]
    command = [sys.executable, "-m", "experiments.metrics.average_precision", *files, "--style=coco"]
    (line,) = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    result = json.loads(line)
    assert result["AP"] > 0
    for name in TWELVE:
        assert result[name] == (pytest.approx(scores[name], abs=1e-9) if scores[name] is not None else None), name


def test_a_dataset_without_boxes_is_refused_for_a_detector(tmp_path, data_dir):
    flags = ["--config=configs/ssd_shapes.py:debug", f"--workdir={tmp_path / 'run'}", f"--tfds_data_dir={data_dir}"]
    done = run_main(*flags, "--config.data.name=oxford_iiit_pet")
    assert (
        done.returncode == 1
        and len(done.stderr.splitlines()) == 1
        and "'oxford_iiit_pet' has only label" in done.stderr
    )
    assert not (tmp_path / "run").exists()
