"""Fields that are fitted to objects suit the model, match with its boxes, and are the same every time."""

import json
import shlex

import numpy as np
import pytest

from experiments.box_fitting import fit_boxes, write_flags
from experiments.command_line import read_experiment
from experiments.datacheck import before_training
from experiments.object_counts import check_objects, list_box_flags
from experiments.tasks.registry import make_task

CLASSES = ("tall", "flat")
SMALL = ["--config.data.image_size=(96,96)", "--config.data.fit=stretch"]


class Objects:
    """Eight objects per image of 96x96. The root of the area is twenty pixels, and the ratio is 2 or 1/2."""

    class_names, category_ids, bad_boxes, clipped_boxes = CLASSES, (1, 2), (), 0

    def __len__(self):
        return 12

    def objects(self, index):
        rng = np.random.default_rng(index)
        classes = rng.integers(0, 2, 8)
        side = 20 * rng.uniform(0.9, 1.1, 8)
        shapes = np.stack([side * np.where(classes, 0.7, 1.4), side * np.where(classes, 1.4, 0.7)], -1)
        corners = rng.uniform(0, 96 - shapes)
        flags = np.zeros((2, 8), bool)
        boxes = np.concatenate([corners, corners + shapes], -1)
        own = {"boxes": boxes, "classes": classes, "crowd": flags[0], "difficult": flags[1], "area": shapes.prod(-1)}
        return (96, 96), own

    def find_bad_boxes(self, index):
        return ()


def read(name, *fields):
    config = read_experiment(f"configs/{name}.py:debug", SMALL + list(fields))
    return config, make_task(config, CLASSES)


@pytest.mark.parametrize(
    ("name", "far"),
    [
        ("ssd_shapes", ["--config.model.sizes=(0.6,0.7,0.8,0.9)"]),
        ("retinanet_shapes", ["--config.model.scale=12.0"]),
        ("faster_rcnn_shapes", ["--config.model.scale=20.0"]),
    ],
)
def test_pasted_flags_give_the_reported_match(name, far, tmp_path, capsys):
    config, task = read(name, *far)
    source = Objects()
    before_training(config, task, source, tmp_path)
    report = json.loads((tmp_path / "datacheck.json").read_text())
    assert report["matchable"] < 0.5 and report["fitted"]["matchable"] >= 0.95
    again = check_objects(config, task, source)
    title, flags = list_box_flags(again)
    warning = capsys.readouterr().err
    assert flags in warning and f"{report['fitted']['matchable']:.2%} with" in warning and warning.count("\n") == 1
    assert "enough" not in title and json.loads(json.dumps(again)) == report, "the same every time"
    pasted, fitting = read(name, *shlex.split(flags))
    assert check_objects(pasted, fitting, source)["matchable"] == report["fitted"]["matchable"]


def test_model_that_fits_is_reported_and_refitted_only_on_request():
    config, task = read("ssd_shapes", "--config.model.sizes=(0.2,0.25,0.3,0.4)")
    assert check_objects(config, task, Objects())["fitted"] is None
    asked = check_objects(config, task, Objects(), always_fit=True)
    assert asked["matchable"] >= 0.95 and "those of the model match enough" in list_box_flags(asked)[0]


@pytest.mark.parametrize("name", ["fcos_shapes", "yolov1_shapes", "fast_rcnn_shapes"])
def test_a_model_without_such_boxes_has_no_flags(name):
    config, task = read(name)
    boxes = np.array([[10.0, 10, 30, 30]])
    assert fit_boxes(config, task, 2, boxes, 0.95) is None


def test_objects_that_no_box_can_match_are_ignored_by_the_fit():
    """The objects have two or twenty pixels. Only those of twenty are fitted, and the warning names another remedy."""
    config, task = read("ssd_shapes", "--config.model.sizes=(0.6,0.7,0.8,0.9)")
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 70, (60, 2)), np.repeat([2.0, 20.0], 30)[:, None]
    fitted = fit_boxes(config, task, 2, np.concatenate([corners, corners + sides], -1), 0.95)
    assert 0.45 < fitted["matchable"] < 0.6


def test_flags_are_quoted_for_the_shell():
    flags = write_flags({"sizes": (0.1, 0.25), "ratios": ((2.0,), (3.0,)), "scale": 4.0})
    assert flags == "--config.model.sizes='(0.1,0.25)' --config.model.ratios='((2.0,),(3.0,))' --config.model.scale=4.0"
    assert shlex.split(flags)[1] == "--config.model.ratios=((2.0,),(3.0,))"
