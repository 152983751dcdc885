"""Boxes on the host: views put together in the image's own pixels, pictures and files."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs import common
from errors import UserError
from experiments.results.boxes import BoxAssembly
from experiments.results.registry import make_results

CLASSES = ("red", "green", "blue")


def make(**evaluation):
    config = common.get_config()
    config.eval.update(dict(metrics=("coco",)) | evaluation)
    return make_results(("boxes",), config.eval, CLASSES)


def test_the_weaker_of_two_views_detections_goes():
    merged = BoxAssembly((100, 100), iou=0.5, count=2)
    shift = np.eye(3)
    for left, score in ((10.0, 0.6), (11.0, 0.9), (60.0, 0.5)):
        boxes = np.array([[10, left, 30, left + 20], [5, 5, 5, 90]], np.float32)
        row = {"boxes": boxes, "scores": np.array([score, 1.0], np.float32), "classes": np.zeros(2, np.int32)}
        merged.add(row | {"valid": np.ones(2, bool)}, (100, 100), shift)
    result = merged.result()
    assert result["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert result["boxes"].tolist() == [[10, 11, 30, 31], [10, 60, 30, 80]]


def test_one_view_keeps_what_the_task_has_chosen():
    alone = BoxAssembly((100, 100), iou=0.1, count=2)
    boxes = np.array([[10, 10, 30, 30], [10, 11, 30, 31], [50, 50, 60, 60]], np.float32)
    row = {"boxes": boxes, "scores": np.array([0.9, 0.8, 0.7], np.float32), "classes": np.zeros(3, np.int32)}
    alone.add(row | {"valid": np.ones(3, bool)}, (100, 100), np.eye(3))
    result = alone.result()
    assert result["boxes"].tolist() == boxes.tolist(), "one view is suppressed on the device already"
    assert result["scores"].tolist() == pytest.approx([0.9, 0.8, 0.7]) and result["classes"].tolist() == [0, 0, 0]


def test_of_several_views_the_best_detections_stay():
    merged = BoxAssembly((100, 100), iou=0.5, count=2)
    for place, score in ((10, 0.5), (40, 0.9), (70, 0.7)):
        boxes = np.array([[place, place, place + 20, place + 20]], np.float32)
        row = {"boxes": boxes, "scores": np.array([score], np.float32), "classes": np.zeros(1, np.int32)}
        merged.add(row | {"valid": np.ones(1, bool)}, (100, 100), np.eye(3))
    assert merged.result()["scores"].tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize(
    ("paths", "ids", "names"),
    [
        (("a/000012.png", "a/7.png"), [12, 7], ["000012.png", "7.png"]),
        (("a/7.png", "a/b.png"), [1, 2], ["7.png", "b.png"]),
        (("a/1.png", "b/1.png"), [1, 2], ["a/1.png", "b/1.png"]),
    ],
)
def test_predictions_are_cocos_results(tmp_path, paths, ids, names):
    """Whatever order the images come in, and with one left out."""
    paths = [pathlib.Path(path) for path in (*paths, "c/0099.jpg")]
    writer = make().writer(tmp_path, paths, (7, 8, 90))
    prediction = {
        "boxes": np.array([[2.0, 1.0, 5.0, 9.0]]),
        "scores": np.array([0.5], np.float32),
        "classes": np.array([2], np.int32),
    }
    for number in (1, 0):
        (picture,) = writer.add(paths[number], f"image{number}", np.zeros((12, 14, 3), np.uint8), prediction)
        assert picture.name == f"image{number}_boxes.png" and picture.stat().st_size > 100
    (place,) = writer.close()
    entries = json.loads(place.read_text())
    assert {entry["file_name"]: entry["image_id"] for entry in entries} == dict(zip(names, ids, strict=True))
    assert [entry["image_id"] for entry in entries] == sorted(ids)
    assert entries[0] | {"image_id": 0, "file_name": ""} == {
        **{"image_id": 0, "category_id": 90, "bbox": [1.0, 2.0, 8.0, 3.0], "score": 0.5},
        **{"file_name": "", "category_name": "blue"},
    }


def picture_of(results, prediction, folder):
    writer = results.writer(folder, [folder / "a.png"], (1, 2, 3))
    (picture,) = writer.add(folder / "a.png", "a", np.zeros((448, 448, 3), np.uint8), prediction)
    writer.close()
    return np.asarray(Image.open(picture))


def test_weak_detections_are_in_the_files_and_not_in_the_pictures(tmp_path):
    prediction = {
        "boxes": np.array([[20.0, 20, 200, 200], [220, 220, 400, 400]]),
        "scores": np.array([0.6, 0.4], np.float32),
        "classes": np.array([0, 1], np.int32),
    }
    strong = {name: values[:1] for name, values in prediction.items()}
    example = {"image": np.zeros((448, 448, 3), np.uint8), "boxes": np.zeros((0, 4)), "classes": np.zeros(0, int)}
    example |= {name: np.zeros(0, bool) for name in ("crowd", "difficult")}
    for least, same in ((0.25, False), (0.5, True)):
        results, folder = make(picture_score=least), tmp_path / str(least)
        drawn, alone = (results.picture([example], [shown]) for shown in (prediction, strong))
        assert (drawn.shape == alone.shape and (drawn == alone).all()) == same
        drawn, alone = (picture_of(results, shown, folder) for shown in (strong, prediction))
        assert (drawn == alone).all() == same
        assert len(json.loads((folder / "detections.json").read_text())) == 2


@pytest.mark.parametrize("metrics", [(), ("boundary",), ("confusion",)])
def test_a_score_that_boxes_do_not_have(metrics):
    with pytest.raises(UserError, match=r"config.eval.metrics.*coco"):
        make(metrics=metrics)
