"""The contents of a page, number by number."""

import json

import numpy as np
import pytest

from experiments.compare.contents import (
    CONTRAST,
    DARK,
    LIGHT,
    choose_colours,
    collect,
    collect_classes,
    collect_curves,
    find_best_run,
    find_contrast,
    list_fields,
    list_makers,
    summarise,
)
from experiments.compare.curves import decode
from experiments.compare.groups import fold
from experiments.compare.runs import find_runs, read_run
from experiments.run.spread import find_interval
from tests.experiments.compare.synthetic import make_run


@pytest.fixture
def groups(tmp_path):
    """Two learning rates, the first with two seeds."""
    for lr, seed, best in ((0.1, 0, 0.5), (0.1, 1, 0.6), (0.2, 0, 0.55)):
        scores = [{"mIoU": best}, {"mIoU": best - 0.1}]
        make_run(tmp_path / f"lr={lr},seed={seed}", {"optim.lr": lr, "seed.init": seed}, scores)
    return fold(find_runs([str(tmp_path)]))


def test_the_summary_has_means_and_intervals(groups):
    found = summarise(groups, "val/mIoU", 2.5)
    cells = [dict(zip([title for title, _ in found["columns"]], row, strict=True)) for row in found["rows"]]
    _, low, high = find_interval([0.5, 0.6])
    first = cells[0]
    assert first["method"][0] == "lr=0.1" and first["seeds"] == ["2", 2] and first["state"][0] == "done"
    assert first["best val/mIoU"][0] == f"0.5500 ± {(high - low) / 2:.4f}" and first["at step"] == ["10", 10]
    assert first["last val/mIoU"][1] == pytest.approx(0.45)
    assert [first[name][0] for name in ("hours", "device-hours", "cost")] == ["2.00", "8.00", "20.0"]
    assert first["images/s"][0] == "20.0" and first["PFLOP"][0] == "0.0800"  # 1e12 per device and step
    assert cells[1]["best val/mIoU"][0] == "0.5500", "one run has no interval"
    assert "cost" not in [title for title, _ in summarise(groups, "val/mIoU", None)["columns"]]


def test_a_run_without_rows_is_shown(tmp_path):
    workdir = make_run(tmp_path / "run")
    (workdir / "metrics.jsonl").write_text("")
    (workdir / "evidence.json").unlink()
    groups = fold([read_run(workdir, "run")])
    found = collect(groups, "val/mIoU", [], 1.0)
    assert [text for text, _ in found["summary"]["rows"][0]] == ["run", "1", *"--------", "unfinished, with problems"]
    assert found["curves"] == {} and found["classes"] == {} and found["runs"][0]["hours"] is None
    (workdir / "config.json").write_text("{")
    assert collect(fold([read_run(workdir, "run")]), "val/mIoU", [], 1.0)["runs"][0]["problems"]


def test_curves_have_the_values_of_the_rows(groups):
    curves = collect_curves(groups, [[0, 1], [2]])
    assert curves.keys() == {"train/loss", "time/images_per_second", "val/mIoU", "val/IoU/circle", "val/IoU/square"}
    steps, values = curves["val/mIoU"][1]
    assert decode(steps, "<u4").tolist() == [10, 20]
    np.testing.assert_allclose(decode(values, "<f4"), [0.6, 0.5])


def test_class_scores_come_from_the_best_step(groups):
    for run, circle in zip(groups[0].runs, (0.2, 0.4), strict=True):
        run.rows[0]["val/IoU/circle"], run.rows[1]["val/IoU/circle"] = circle, 0.9
    groups[1].runs[0].rows[0]["val/IoU/circle"] = None
    found = collect_classes(groups, "val/mIoU")["IoU"]
    np.testing.assert_allclose(found["circle"][0], find_interval([0.2, 0.4]))
    assert found["circle"][1] is None and found["square"][1][0] == 0.5


def test_the_best_run_represents_its_method(groups):
    assert find_best_run(groups[0], "val/mIoU") == 1
    assert find_best_run(groups[0], "train/loss") == 0, "smaller is better, and the first of equal ones"
    assert find_best_run(groups[0], "val/none") == 0
    assert collect(groups, "val/mIoU", [], None)["groups"][0] == {"name": "lr=0.1", "runs": [0, 1], "shown": 1}


def test_all_fields_and_varied_fields_are_listed(groups):
    found = list_fields(groups)
    assert [found["all"][index]["name"] for index in found["varied"]] == ["optim.lr"]
    fields = {field["name"]: field for field in found["all"]}
    assert fields["optim.lr"] == {"name": "optim.lr", "texts": ["0.1", "0.2"], "groups": [0, 1]}
    assert fields["model.name"]["groups"] == [0, 0] and fields["eval.metrics"]["texts"] == ["confusion"]


def test_different_sessions_are_all_listed(tmp_path):
    workdir = make_run(tmp_path / "run", packages={"jax": "1"})
    evidence = json.loads((workdir / "evidence.json").read_text())
    evidence["sessions"].append(evidence["sessions"][0] | {"packages": {"jax": "2"}, "devices": "none", "git": None})
    (workdir / "evidence.json").write_text(json.dumps(evidence))
    made = list_makers(read_run(workdir, "run"))
    assert made["versions"] == ["jax 1", "jax 2"] and made["sessions"] == ["2"]
    assert made["commit"] == ["0" * 12] and made["devices"] == ["4 x a GPU"]


@pytest.mark.parametrize("ground", [LIGHT, DARK])
def test_colours_have_enough_contrast(ground):
    colours = choose_colours(ground)
    assert len(set(colours)) == 6
    assert all(find_contrast(tuple(bytes.fromhex(own[1:])), ground) >= CONTRAST for own in colours)
    assert find_contrast((255, 255, 255), (0, 0, 0)) == pytest.approx(21)
