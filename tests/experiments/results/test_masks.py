"""Masks are pasted from probabilities, merged over views, written to files and scored."""

import json
import math
import pathlib
import time
import tracemalloc

import numpy as np
import pytest

from configs import common
from errors import UserError
from experiments.metrics.average_precision import main
from experiments.results.masks import MaskAssembly, paste
from experiments.results.registry import make_results
from input_pipeline.augment import geometry
from input_pipeline.masks import frame
from tests.experiments.metrics import test_mask_precision as scored
from tests.experiments.metrics.test_average_precision import TWELVE, assert_every_digit
from tests.experiments.results.test_boxes import plan
from tests.input_pipeline.test_masks import whole


def make(**evaluation):
    config = common.get_config()
    config.eval.update(dict(metrics=("coco", "coco_masks", "coco_boundaries")) | evaluation)
    return make_results(("boxes", "masks"), config.eval, scored.NAMES)


def pasted(probability, box, size):
    return whole([paste(np.array(probability, np.float32), np.array(box, float), size)], size)[0]


def test_grid_of_the_size_of_the_box_is_pasted_unchanged():
    rng = np.random.default_rng(0)
    probability = rng.random((7, 5)).astype(np.float32)
    expected = np.zeros((20, 30), bool)
    expected[4:11, 20:25] = probability > 0.5
    np.testing.assert_array_equal(pasted(probability, (4, 20, 11, 25), (20, 30)), expected)


@pytest.mark.parametrize(("box", "part"), [((-3, -2, 4, 3), (3, 2)), ((17, 28, 24, 33), (0, 0))])
def test_image_border_clips_a_mask_without_moving_it(box, part):
    probability = np.random.default_rng(1).random((7, 5)).astype(np.float32)
    top, left = max(box[0], 0), max(box[1], 0)
    shown = probability[part[0] :, part[1] :][: 20 - top, : 30 - left] > 0.5
    expected = np.zeros((20, 30), bool)
    expected[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    np.testing.assert_array_equal(pasted(probability, box, (20, 30)), expected)


def test_probability_is_linear_between_the_centres_of_cells():
    """Two cells of 10 pixels have 0 at the fifth and 1 at the fifteenth pixel, and 0.5 between the tenth and the eleventh."""
    row = pasted([[0, 1]], (0, 0, 1, 20), (1, 24))[0]
    assert row.tolist() == [False] * 10 + [True] * 10 + [False] * 4
    # Where 0.8 t is above 0.5: beyond 5 + 10 * 0.625 = 11.25 pixels, and to the right where 0.8 (1 - t / 10) is, up to 18.75.
    row = pasted([[0, 0.8]], (0, 0, 1, 20), (1, 24))[0]
    assert np.flatnonzero(row).tolist() == list(range(11, 18 + 1))


def test_masks_stay_inside_the_box_and_empty_masks_are_none():
    for box in ((3.4, 2.7, 9.6, 17.2), (3.6, 2.2, 9.4, 17.9), (3.45, 2.45, 3.55, 2.55)):
        mask = pasted(np.ones((28, 28)), box, (20, 30))
        y, x = np.nonzero(mask)
        assert (y + 0.5 >= box[0]).all() and (y + 0.5 <= box[2]).all()
        assert (x + 0.5 >= box[1]).all() and (x + 0.5 <= box[3]).all()
        assert mask.any()
    assert not pasted(np.full((28, 28), 0.5), (2, 2, 9, 9), (20, 30)).any()


@pytest.mark.parametrize("cells", [13, 3, 1])
def test_pasted_masks_equal_torchvision(cells):
    """All pixels agree for the same box. Torchvision gives a box a further pixel at the right and at the bottom."""
    torch = pytest.importorskip("torch", reason="compares with torchvision, which is not installed")
    heads = pytest.importorskip("torchvision.models.detection.roi_heads", reason="torchvision is not installed")

    rng, size = np.random.default_rng(cells), (480, 640)
    y, x = np.mgrid[:28, :28]
    blobs = np.hypot(y - 14, x - 12)[None] - rng.uniform(6, 13, (6, 1, 1)) + rng.normal(0, 0.5, (6, 28, 28))
    probability = (1 / (1 + np.exp(blobs))).astype(np.float32)
    # Cells of whole pixels: torchvision rounds its boxes, which have a further cell at each side, to whole pixels.
    cell = rng.integers(1, cells + 1, (6, 2))
    corner = rng.uniform(-6 * cell, np.array(size) - 22 * cell).round().astype(int)
    ours = np.array(
        [
            pasted(mask, [*low, *low + 28 * side], size)
            for mask, low, side in zip(probability, corner, cell, strict=True)
        ]
    )
    padded, _ = heads.expand_masks(torch.tensor(probability)[:, None], 1)
    same = np.concatenate([corner - cell, corner + 29 * cell - 1], -1)[:, [1, 0, 3, 2]].tolist()
    same = [heads.paste_mask_in_image(mask[0], box, *size).numpy() for mask, box in zip(padded, same, strict=True)]
    for mask, level in zip(ours, same, strict=True):
        assert mask.any() and not (mask ^ (level > 0.5))[np.abs(level - 0.5) > 1e-5].any()


def disc(height, width):
    """Return a shape without symmetry, as probabilities at the centres of a grid over its box."""
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / width
    return np.where((y < 0.4) | (x < 0.3), 0.98, 0.02).astype(np.float32)


def see(boxes, view, scores):
    """Return the detections of a perfect detector, for objects of one shape that a view shows completely."""
    found = []
    for (top, left, bottom, right), score in zip(boxes, scores, strict=True):
        corners = np.array([view.matrix @ (x, y, 1) for x in (left, right) for y in (top, bottom)])[:, 1::-1]
        grid = disc(28, 28)[:: -1 if view.matrix[1, 1] < 0 else 1, :: -1 if view.matrix[0, 0] < 0 else 1]
        found.append(([*corners.min(0), *corners.max(0)], score, grid))
    found.append(([1, 1, 9, 9], 0.99, np.ones((28, 28))))  # padding
    return {
        "boxes": np.array([box for box, *_ in found], np.float32),
        "scores": np.array([score for _, score, _ in found], np.float32),
        "classes": np.zeros(len(found), np.int32),
        "masks": np.array([grid for *_, grid in found], np.float32),
        "valid": np.arange(len(found)) < len(boxes),
    }


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "shortest"])
def test_masks_follow_their_boxes_through_the_views(fit):
    """The views are mirrored and zoomed, single and merged. One box extends beyond the image."""
    size, boxes, scores = (60, 90), [[4, 5, 32, 33], [20, 50, 48, 78], [44, 20, 72, 48]], np.array([0.9, 0.8, 0.7])
    planned = plan(size, fit, ((64, 96), (96, 64)), flip=True, scales=(1.0, 1.5))
    expected = np.array([pasted(disc(28, 28), box, size) for box in boxes])
    assert expected[2].any() and not np.array_equal(expected[0][4:32, 5:33], expected[0][4:32, 5:33][:, ::-1])
    for views in (planned, *([view] for view in planned)):
        merged = MaskAssembly(size, iou=0.45, count=100)
        for view in views:
            merged.add(see(boxes, view, scores), view.canvas, view.matrix)
        result = merged.result()
        assert set(result) == {"boxes", "scores", "classes", "masks"} and result["masks"].dtype == object
        np.testing.assert_allclose(result["boxes"], np.clip(boxes, 0, [60, 90, 60, 90]), atol=1e-4)
        for ours, known in zip(whole(result["masks"], size), expected, strict=True):
            assert (ours ^ known).sum() <= 0.02 * known.sum()  # with equal scores any view may be kept


def test_masks_of_an_upside_down_view_are_flipped_back():
    mirror = geometry.translation(0, 20) @ geometry.scaling(1, -1)
    box = [[3.0, 4.0, 10.0, 9.0]]
    row = {
        "boxes": np.array([[10, 4, 17, 9]], np.float32),
        "scores": np.ones(1, np.float32),
        "classes": np.zeros(1, int),
    }
    probability = np.random.default_rng(3).random((1, 7, 5)).astype(np.float32)
    merged = MaskAssembly((20, 30), 0.5, 10)
    merged.add(row | {"masks": probability[:, ::-1], "valid": np.ones(1, bool)}, (20, 30), mirror)
    result = merged.result()
    assert result["boxes"].tolist() == box
    np.testing.assert_array_equal(whole(result["masks"], (20, 30))[0], pasted(probability[0], box[0], (20, 30)))


def test_only_the_mask_of_the_stronger_detection_is_pasted():
    merged = MaskAssembly((40, 40), iou=0.5, count=1)
    for score, level in ((0.6, 0.1), (0.9, 0.9), (0.7, 0.2)):
        row = {"boxes": np.array([[5, 5, 25, 25]], np.float32), "scores": np.full(1, score, np.float32)}
        row |= {"classes": np.zeros(1, int), "masks": np.full((1, 28, 28), level, np.float32)}
        merged.add(row | {"valid": np.ones(1, bool)}, (40, 40), np.eye(3))
    (mask,) = merged.result()["masks"]
    assert mask.pixels.sum() > 380
    empty = MaskAssembly((40, 40), 0.5, 9)
    empty.add(row | {"valid": np.zeros(1, bool)}, (40, 40), np.eye(3))
    assert empty.result()["masks"].shape == (0,)


def test_hundreds_of_masks_need_little_time_and_memory():
    """All pixels of the image for each mask would take 520 MB."""
    rng, size, count = np.random.default_rng(0), (1000, 1300), 400
    corner, sides = rng.uniform(0, 900, (count, 2)), rng.uniform(10, 80, (count, 2))
    row = {"boxes": np.concatenate([corner, corner + sides], -1).astype(np.float32), "valid": np.ones(count, bool)}
    row |= {"scores": np.linspace(1, 0.1, count, dtype=np.float32), "classes": np.zeros(count, int)}
    row |= {"masks": rng.random((count, 28, 28)).astype(np.float32)}
    tracemalloc.start()
    try:
        start = time.perf_counter()
        merged = MaskAssembly(size, 0.5, count)
        merged.add(row, size, np.eye(3))
        assert len(merged.result()["masks"]) == count
        assert time.perf_counter() - start < 5  # 0.1 s on an idle core
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.fixture
def files(tmp_path):
    """Write the annotations of two images, and predictions for them."""
    images = [image for image in scored.random_images(11, 5) if len(image[0]["masks"])]
    for prediction, _ in images:
        masks = whole(prediction["masks"], scored.SIZE)
        prediction["boxes"] = np.array([scored.bound(mask) for mask in masks], float)
    paths = [pathlib.Path(f"images/{7 * number + 3}.png") for number in range(len(images))]
    writer = make().writer(tmp_path, paths, (5, 2, 9), [int(path.stem) for path in paths])
    known = {"images": [], "annotations": []}
    known["categories"] = [{"id": k, "name": name} for k, name in zip((5, 2, 9), scored.NAMES, strict=True)]
    for path, (prediction, truth) in zip(paths, images, strict=True):
        known["images"].append(
            {"id": int(path.stem), "file_name": path.name, "height": scored.SIZE[0], "width": scored.SIZE[1]}
        )
        for mask, label, crowd, area in zip(
            whole(truth["masks"], scored.SIZE), truth["classes"], truth["crowd"], truth["area"], strict=True
        ):
            flat = mask.ravel(order="F")
            edges = [0, *np.flatnonzero(np.diff(flat, prepend=False)).tolist(), flat.size]
            region = {"size": list(scored.SIZE), "counts": np.diff(edges).tolist()}
            row = {"image_id": int(path.stem), "category_id": (5, 2, 9)[label], "iscrowd": int(crowd), "area": area}
            known["annotations"].append(row | {"id": len(known["annotations"]) + 1, "segmentation": region})
        (picture,) = writer.add(path, path.stem, truth["image"], prediction)
        assert picture.name == f"{path.stem}_instances.png" and picture.stat().st_size > 100
    (tmp_path / "known.json").write_text(json.dumps(known))
    (place,) = writer.close()
    return (tmp_path / "known.json", place), images


@pytest.mark.parametrize(("kind", "prefix"), [("segm", "mask"), ("boundary", "boundary")])
def test_prediction_files_have_the_scores_of_the_metric(files, capsys, kind, prefix):
    """The size of a detection in a file is the area of its box, as in COCO's tools, or without boxes that of its mask."""
    paths, images = files
    entries = json.loads(paths[1].read_text())
    assert len(entries) > 5 and all({"bbox", "segmentation", "score", "file_name"} <= entry.keys() for entry in entries)
    expected = scored.measured(*images).compute()
    assert 0 < expected["boundary_AP"] < expected["mask_AP"] < 1
    for names in (("AP", "AP50", "AP75", "AR100"), TWELVE):
        arguments = [f"--ground_truth={paths[0]}", f"--detections={paths[1]}", "--style=coco", f"--iou_type={kind}"]
        assert main(arguments) == 0
        printed = json.loads(capsys.readouterr().out)
        for name in names:
            np.testing.assert_equal(math.nan if printed[name] is None else printed[name], expected[f"{prefix}_{name}"])
        if kind == "segm":
            assert_every_digit(paths, kind)
            capsys.readouterr()
        for entry in entries:
            entry.pop("bbox", None)
        paths[1].write_text(json.dumps(entries))


def test_perfect_detector_scores_almost_one_and_weak_masks_are_not_drawn():
    """The test runs views, scores and pictures, as an evaluation does."""
    y, x = np.mgrid[: scored.SIZE[0], : scored.SIZE[1]]
    discs = [
        np.hypot(y - row, x - column) < radius for row, column, radius in ((30, 30, 25), (60, 90, 29), (20, 75, 8))
    ]
    _, truth = scored.image_of([(index % 2, disc) for index, disc in enumerate(discs)], [])
    truth["boxes"] = np.array([scored.bound(disc) for disc in discs], float)
    truth["image"] = np.full((*scored.SIZE, 3), 90, np.uint8)
    grids = [frame(mask, box, (28, 28)) for mask, box in zip(truth["masks"], truth["boxes"], strict=True)]
    row = {"boxes": truth["boxes"].astype(np.float32), "masks": np.array(grids, np.float32), "valid": np.ones(3, bool)}
    row |= {"classes": truth["classes"], "scores": np.array([0.9, 0.8, 0.2], np.float32)}
    results = make()
    assembly = results.assembly(scored.SIZE)
    assembly.add(row, scored.SIZE, np.eye(3))
    prediction, scores = assembly.result(), {}
    for metric in results.metrics():
        metric.add(json.loads(json.dumps(metric.measure(prediction, truth))), 0)
        scores |= metric.compute()
    assert scores["AP"] == pytest.approx(1) and scores["mask_AP"] > 0.95 and scores["boundary_AP"] > 0.75
    shown = {name: prediction[name] for name in results.shown}
    strong = {name: values[:2] for name, values in shown.items()}
    every, alone = (results.picture([truth], [rows]) for rows in (shown, strong))
    np.testing.assert_array_equal(every, alone)
    assert (make(picture_score=0.1).picture([truth], [shown]) != every).any()
    tiles = results.tiles(truth, shown, 64)
    np.testing.assert_array_equal(tiles["prediction"], results.tiles(truth, strong, 64)["prediction"])
    assert max(tiles["truth"].shape) == 64 and (tiles["truth"].max(-1) > tiles["truth"].min(-1)).any(), (
        "masks in colour"
    )


@pytest.mark.parametrize("metrics", [(), ("coco_mask",), ("confusion",)])
def test_unknown_score_of_masks_raises_an_error(metrics):
    with pytest.raises(UserError, match=r"config.eval.metrics.*coco_boundaries"):
        make(metrics=metrics)


def test_legend_counts_the_objects_per_class(tmp_path):
    writer = make().writer(tmp_path, [], (), ())
    ((_, text),) = writer._list_entries({"classes": np.array([1, 0, 1])})
    assert text == f"a colour is one object; {scored.NAMES[0]}: 1, {scored.NAMES[1]}: 2"
    assert writer._list_entries({"classes": np.zeros(0, int)}) == []
