"""Boxes are merged over views in the pixels of the image, drawn, and written to files."""

import json
import pathlib

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image

from configs import common
from errors import UserError
from experiments.metrics import coco_files, precision
from experiments.results.boxes import BoxAssembly
from experiments.results.registry import make_results
from input_pipeline.views import plan_views

CLASSES = ("red", "green", "blue")


def make(**evaluation):
    config = common.get_config()
    config.eval.update(dict(metrics=("coco",)) | evaluation)
    return make_results(("boxes",), config.eval, CLASSES)


def test_weaker_detection_of_two_views_is_suppressed():
    merged = BoxAssembly((100, 100), iou=0.5, count=2)
    shift = np.eye(3)
    for left, score in ((10.0, 0.6), (11.0, 0.9), (60.0, 0.5)):
        boxes = np.array([[10, left, 30, left + 20], [5, 5, 5, 90]], np.float32)
        row = {"boxes": boxes, "scores": np.array([score, 1.0], np.float32), "classes": np.zeros(2, np.int32)}
        merged.add(row | {"valid": np.ones(2, bool)}, (100, 100), shift)
    result = merged.result()
    assert result["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert result["boxes"].tolist() == [[10, 11, 30, 31], [10, 60, 30, 80]]


def overlap(a, b):
    """Compute the intersection over the union of two boxes by hand."""
    height, width = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return height * width / (sum(areas) - height * width)


def see(boxes, classes, view, scores):
    """Return the detections of a perfect detector in a view, the visible parts of boxes, in order of falling score."""
    found = []
    for (top, left, bottom, right), index, score in zip(boxes, classes, scores, strict=True):
        corners = [view.matrix @ (x, y, 1) for x in (left, right) for y in (top, bottom)]
        whole = [extreme(corner[axis] for corner in corners) for extreme in (min, max) for axis in (1, 0)]
        part = [min(max(side, 0), view.canvas[place % 2]) for place, side in enumerate(whole)]
        shown = (part[2] - part[0]) * (part[3] - part[1]) / ((whole[2] - whole[0]) * (whole[3] - whole[1]))
        if shown > 0:
            found.append((score * shown, index, part))
    found.sort(key=lambda one: -one[0])
    rows = [*found, (0.99, 0, [1, 1, 9, 9])]  # the last row is padding
    return {
        "boxes": np.array([box for _, _, box in rows], np.float32),
        "scores": np.array([score for score, _, _ in rows], np.float32),
        "classes": np.array([index for _, index, _ in rows], np.int32),
        "valid": np.arange(len(rows)) < len(found),
    }


def merge(size, boxes, classes, views, scores, count=100):
    merged = BoxAssembly(size, iou=0.45, count=count)
    for number, view in enumerate(views):
        merged.add(see(boxes, classes, view, scores - 0.02 * number), view.canvas, view.matrix)
    return merged.result()


def plan(size, fit, canvases, **evaluation):
    config = common.get_config()
    config.data.update(fit=fit, canvases=canvases, shortest=(48, 72))
    config.eval.update(evaluation)
    return plan_views(size, config.data, config.eval)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "shortest", "crop"])
@pytest.mark.parametrize("size", [(45, 71), (70, 33)])
@pytest.mark.parametrize("views", [dict(flip=True), dict(scales=(1.0, 0.75, 1.5)), dict(flip=True, scales=(0.5, 1.0))])
def test_detection_seen_in_every_view_appears_once(fit, size, views):
    """It is at the right place in image pixels, also at the border and next to an object of the same class."""
    height, width = size
    boxes = [[0, 0, 10, 12.5], [20.25, 5, 33, 30], [20, 8, 33, 33], [30, width - 9, height, width], [2, 14, 12, 26]]
    classes, scores = [0, 1, 2, 0, 0], np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    planned = plan(size, fit, ((64, 96), (96, 64)), **views)
    assert len(planned) == (1 + ("flip" in views)) * len(views.get("scales", (1.0,)))
    for views in (planned, *([view] for view in planned)):
        result = merge(size, boxes, classes, views, scores)
        assert result["classes"].tolist() == classes
        np.testing.assert_allclose(result["boxes"], boxes, atol=1e-4)
        np.testing.assert_allclose(result["scores"], scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("fit", "size", "scale"), [("crop", (64, 96), 1), ("letterbox", (64, 96), 1), ("shortest", (32, 48), 1.5)]
)
def test_windows_find_an_object_once_and_its_cut_off_part_separately(fit, size, scale):
    """Windows show 64 columns from 0 and from 32 of an image that is 96, or by `shortest` 72, columns wide."""
    planned = plan(size, fit, ((64, 64),), method="window", flip=True)
    assert sorted({round(-view.matrix[0, 2]) for view in planned if view.matrix[0, 0] > 0}) == [0, 32]
    # In pixels of the scaled image. The first box is complete in both windows. The others are complete in one window, and
    # 65 % and 40 % of them are in the other.
    scaled = [[5, 34, 15, 60], [20, 25, 30, 45], [36, 26, 46, 36]]
    boxes = [[side / scale for side in box] for box in scaled]
    result = merge(size, boxes, [0, 0, 1], planned, np.array([0.9, 0.8, 0.7]))
    np.testing.assert_allclose(result["boxes"] * scale, [*scaled, [36, 32, 46, 36]], atol=1e-4)
    assert result["classes"].tolist() == [0, 0, 1, 1]


def test_merging_is_greedy_suppression_within_each_class():
    rng = np.random.default_rng(0)
    for count in (1, 7, 100):
        corner, sides = rng.uniform(0, 60, (2, 30, 2)), rng.uniform(10, 40, (2, 30, 2))
        boxes, scores = np.concatenate([corner, corner + sides], -1), rng.permutation(60).reshape(2, 30) / 60 + 0.01
        classes, merged = rng.integers(0, 3, (2, 30)), BoxAssembly((100, 100), 0.45, count)
        for found in zip(boxes, scores, classes, strict=True):
            row = dict(zip(("boxes", "scores", "classes"), found, strict=True)) | {"valid": np.ones(30, bool)}
            merged.add(row | {"scores": row["scores"].astype(np.float32)}, (100, 100), np.eye(3))
        every = sorted(zip(scores.ravel(), classes.ravel(), boxes.reshape(-1, 4), strict=True), key=lambda one: -one[0])
        kept = []
        for _, index, box in every:
            if all(index != other or overlap(box, theirs) <= 0.45 for other, theirs in kept):
                kept.append((index, box))
        result = merged.result()
        assert result["classes"].tolist() == [index for index, _ in kept[:count]]
        np.testing.assert_allclose(result["boxes"], [box for _, box in kept[:count]], atol=1e-9)


def test_single_view_keeps_the_detections_of_the_task():
    alone = BoxAssembly((100, 100), iou=0.1, count=2)
    boxes = np.array([[10, 10, 30, 30], [10, 11, 30, 31], [50, 50, 60, 60]], np.float32)
    row = {"boxes": boxes, "scores": np.array([0.9, 0.8, 0.7], np.float32), "classes": np.zeros(3, np.int32)}
    alone.add(row | {"valid": np.ones(3, bool)}, (100, 100), np.eye(3))
    result = alone.result()
    assert result["boxes"].tolist() == boxes.tolist(), "the device has already suppressed a single view"
    assert result["scores"].tolist() == pytest.approx([0.9, 0.8, 0.7]) and result["classes"].tolist() == [0, 0, 0]


def test_best_detections_of_several_views_are_kept():
    merged = BoxAssembly((100, 100), iou=0.5, count=2)
    for place, score in ((10, 0.5), (40, 0.9), (70, 0.7)):
        boxes = np.array([[place, place, place + 20, place + 20]], np.float32)
        row = {"boxes": boxes, "scores": np.array([score], np.float32), "classes": np.zeros(1, np.int32)}
        merged.add(row | {"valid": np.ones(1, bool)}, (100, 100), np.eye(3))
    assert merged.result()["scores"].tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize(
    ("paths", "known", "ids", "names"),
    [
        (("a/000000000012.jpg", "a/COCO_val2014_000000000007.jpg"), (), [12, 7], None),
        (("a/000012.png", "a/7.png"), (), ["000012.png", "7.png"], None),
        (("a/000000000012.jpg", "a/b.png"), (), ["000000000012.jpg", "b.png"], None),
        (("a/1.png", "b/1.png"), (), ["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (("a/1.png", "b/1.png"), (31, 4, 8), [31, 4], ["a/1.png", "b/1.png"]),
    ],
)
def test_prediction_files_have_the_format_of_coco_results(tmp_path, paths, known, ids, names):
    """The images are in another order, and one is missing."""
    names = names or [pathlib.Path(path).name for path in paths]
    paths = [pathlib.Path(path) for path in (*paths, "c/000000000099.jpg")]
    writer = make().writer(tmp_path, paths, (7, 8, 90), known)
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


def test_coco_tools_find_the_same_images(tmp_path):
    """Names that equal the ids of other images have no effect."""
    paths = [tmp_path / "000000000002.png", tmp_path / "000000000001.png"]
    known = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "red"}]}
    writer = make().writer(tmp_path, paths, (7, 8, 90), (1, 2))
    for number, path in enumerate(paths, 1):
        left = 10 * number
        known["images"].append({"id": number, "file_name": path.name, "height": 60, "width": 60})
        box = {"bbox": [left, 5, 8, 8], "area": 64, "iscrowd": 0}
        known["annotations"].append({"id": number, "image_id": number, "category_id": 7} | box)
        found = {"boxes": np.array([[5.0, left, 13.0, left + 8]]), "scores": np.ones(1), "classes": np.zeros(1, int)}
        writer.add(path, path.stem, np.zeros((60, 60, 3), np.uint8), found)
    (detections,) = writer.close()
    (tmp_path / "known.json").write_text(json.dumps(known))
    evaluation = COCOeval_faster(COCO(known), COCO(known).loadRes(str(detections)), iouType="bbox")
    evaluation.run()
    tables, _ = coco_files.read(tmp_path / "known.json", detections, "bbox")
    assert evaluation.stats_as_dict["AP_all"] == precision.coco(tables).whole["AP"] == 1


EMPTY = {"boxes": np.zeros((0, 4)), "classes": np.zeros(0, int)} | dict.fromkeys(
    ("crowd", "difficult"), np.zeros(0, bool)
)


def picture_of(results, prediction, folder):
    writer = results.writer(folder, [folder / "a.png"], (1, 2, 3), ())
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
        tiles, alone = (results.tiles(example, shown, 100) for shown in (prediction, strong))
        assert tiles.keys() == {"truth", "prediction"} and tiles["truth"].shape == (100, 100, 3)
        assert not tiles["truth"].any() and tiles["prediction"].any(), "the image has detections and no objects"
        assert (tiles["prediction"] == alone["prediction"]).all() == same
        drawn, alone = (picture_of(results, shown, folder) for shown in (strong, prediction))
        assert (drawn == alone).all() == same
        assert len(json.loads((folder / "detections.json").read_text())) == 2


def test_picture_has_a_remark_below_the_image(tmp_path):
    """The image does not change. The remark below it depends on whether detections are missing, weak or strong."""
    box, image = np.array([[20.0, 20, 200, 200]]), np.zeros((448, 448, 3), np.uint8)
    strips = []
    for count, score in ((0, 0.0), (1, 0.13), (1, 0.17), (1, 0.5), (1, 0.9)):
        prediction = {
            "boxes": box[:count],
            "scores": np.full(count, score, np.float32),
            "classes": np.zeros(count, int),
        }
        drawn = picture_of(make(), prediction, tmp_path / str(score))
        assert drawn[:448].any() == (score >= 0.25) and (drawn[:448, 448:] == 255).all()
        strips.append(drawn[448:].tobytes())
    assert strips[3] == strips[4] and len(set(strips)) == 4
    (legend,) = make().writer(tmp_path, [], (), ())._list_entries(prediction)
    assert legend == (0, "red: 1")
    assert make().picture([EMPTY | {"image": image}], [prediction]).shape[1] == 2 * 448 + 10 + 40


def test_comparison_explains_an_empty_tile():
    weak = {
        "boxes": np.array([[20.0, 20, 200, 200]]),
        "scores": np.array([0.2], np.float32),
        "classes": np.zeros(1, int),
    }
    none, example = (
        {name: values[:0] for name, values in weak.items()},
        EMPTY | {"image": np.zeros((448, 448, 3), np.uint8)},
    )
    assert (make().tiles(example, weak, 448)["prediction"] != make().tiles(example, none, 448)["prediction"]).any()
    shown = make(picture_score=0.1).tiles(example, weak, 448)["prediction"]
    assert not (shown[-20:, :20] == 255).any(), "a tile with a detection has no remark"


@pytest.mark.parametrize("metrics", [(), ("boundary",), ("confusion",)])
def test_unknown_score_of_boxes_raises_an_error(metrics):
    with pytest.raises(UserError, match=r"config.eval.metrics.*coco"):
        make(metrics=metrics)
