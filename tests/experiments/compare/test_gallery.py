"""Images of several runs are matched by name and data, without those of damaged runs."""

import base64
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.compare.gallery import MOST_RUNS, SHEET, collect_examples
from experiments.compare.runs import read_run
from experiments.pictures.png import write_png
from tests.experiments.compare.synthetic import make_run
from tests.experiments.compare.trained import SESSION, draw_examples

IMAGES = ("a.png", "b.png")


def read(workdir):
    return read_run(workdir, workdir.name)


def test_images_of_one_split_are_matched(tmp_path):
    runs = []
    for number, (images, evaluated) in enumerate([(IMAGES, "x"), (("b.png", "c.png"), "x"), (("b.png",), "y")]):
        workdir = make_run(tmp_path / str(number), **SESSION | {"data": {"train": "t", "eval": evaluated}})
        draw_examples(workdir, number, images, ("sky", "tree"))
        runs.append((10 + number, read(workdir)))
    found = collect_examples(runs)
    assert [(row["name"], sorted(row["predictions"])) for row in found["rows"]] == [
        ("a.png", [10]), ("b.png", [10, 11]), ("c.png", [11]), ("b.png", [12]),
    ]  # fmt: skip
    assert found["sheets"] == {} and found["left_out"] == 0
    assert found["classes"] == {"sky": "#0072b2", "tree": "#e69f00"}
    for row in found["rows"]:
        assert row.keys() == {"name", "index", "predictions", "image", "truth"}
        picture = Image.open(io.BytesIO(base64.b64decode(row["truth"].removeprefix("data:image/webp;base64,"))))
        assert picture.format == "WEBP" and picture.size == (128, 96)


def test_the_background_has_no_colour_in_the_legend(tmp_path):
    workdir = make_run(tmp_path / "run")
    draw_examples(workdir, 0, IMAGES, ("background", "tree"))
    assert collect_examples([(0, read(workdir))])["classes"] == {"tree": "#e69f00"}


def test_older_run_shows_its_sheet_of_examples(tmp_path):
    workdir = make_run(tmp_path / "run", scores=[{"mIoU": 0.1}, {"mIoU": 0.2}])
    write_png(workdir / "predictions" / "val-20-examples.png", np.zeros((30, 2 * SHEET, 3), np.uint8))
    run = read(workdir)
    run.rows[1]["val/examples"] = "predictions/val-20-examples.png"
    (sheet,) = collect_examples([(0, run)])["sheets"].values()
    assert Image.open(io.BytesIO(base64.b64decode(sheet.split(",")[1]))).size == (SHEET, 15)


@pytest.mark.parametrize("place", ["../secret.png", "/{}/secret.png", "predictions/none.png", 7])
def test_a_sheet_outside_the_run_is_not_read(tmp_path, place):
    workdir = make_run(tmp_path / "run")
    write_png(tmp_path / "secret.png", np.zeros((4, 4, 3), np.uint8))
    run = read(workdir)
    run.rows[0]["val/examples"] = place.format(tmp_path) if isinstance(place, str) else place
    assert collect_examples([(0, run)]) == {"rows": [], "sheets": {}, "classes": {}, "left_out": 0}


def test_damaged_pictures_are_left_out(tmp_path):
    first, second, third = (make_run(tmp_path / name) for name in "abc")
    for workdir in (first, second, third):
        draw_examples(workdir, 0, IMAGES, ("sky", "tree"))
    path = second / "predictions" / "val-examples.zip"
    path.write_bytes(path.read_bytes()[:-30])
    with zipfile.ZipFile(third / "predictions" / "val-examples.zip") as archive:
        names = archive.read("names.json")
    with zipfile.ZipFile(third / "predictions" / "val-examples.zip", "w") as archive:
        archive.writestr("names.json", names)
        for index in (0, 1):
            for tile in ("image", "truth", "prediction"):
                archive.writestr(f"{index}-{tile}.webp", b"<svg onload='alert(1)'/>")
    found = collect_examples([(number, read(workdir)) for number, workdir in enumerate((first, second, third))])
    assert [sorted(row["predictions"]) for row in found["rows"]] == [[0], [0]]


def test_the_number_of_runs_with_pictures_is_limited(tmp_path):
    run = read(make_run(tmp_path / "run"))
    assert collect_examples([(number, run) for number in range(MOST_RUNS + 4)])["left_out"] == 4
