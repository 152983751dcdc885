"""AP equals loops that follow the definitions, hand-computed numbers, and the output of COCO's own tools."""

import itertools
import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from faster_coco_eval.core import mask
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.metrics import coco_files, precision
from experiments.metrics.average_precision import AveragePrecision, main
from tests.conftest import ROOT

NAMES = ("cat", "dog", "owl")
TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
STYLES = ("coco", "voc07", "voc12", "confusion")


def truth(*objects):
    """Make ground truth from (class, (top, left, bottom, right), *flags). A flag is "crowd", "difficult" or an area."""
    boxes = np.array([box for _, box, *_ in objects], np.float64).reshape(-1, 4)
    areas = [next((flag for flag in flags if not isinstance(flag, str)), None) for _, _, *flags in objects]
    return {
        "boxes": boxes,
        "classes": np.array([index for index, *_ in objects], np.int32),
        "crowd": np.array(["crowd" in flags for _, _, *flags in objects], bool),
        "difficult": np.array(["difficult" in flags for _, _, *flags in objects], bool),
        "area": np.array(
            [(b[2] - b[0]) * (b[3] - b[1]) if a is None else a for a, b in zip(areas, boxes, strict=True)], np.float64
        ),
    }


def prediction(*detections):
    """Make a prediction from tuples (class, score, (top, left, bottom, right))."""
    return {
        "boxes": np.array([box for *_, box in detections], np.float32).reshape(-1, 4),
        "scores": np.array([score for _, score, _ in detections], np.float32),
        "classes": np.array([index for index, *_ in detections], np.int32),
    }


def parts(*images):
    """Return the part and the id of each (prediction, truth), as if read from a file."""
    metric = AveragePrecision(NAMES, STYLES)
    return [(json.loads(json.dumps(metric.measure(*image))), 3 * index + 1) for index, image in enumerate(images)]


def measured(*images, styles=STYLES):
    metric = AveragePrecision(NAMES, styles)
    for part, image_id in parts(*images):
        metric.add(part, image_id)
    return metric


def confusion(*images):
    return precision.confusion(measured(*images)._tables()).tolist()


def overlap(detection, box, crowd=False):
    """Return the IoU of two boxes (top, left, bottom, right), or the covered share of the detection for a crowd."""
    height, width = (min(detection[2 + k], box[2 + k]) - max(detection[k], box[k]) for k in (0, 1))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (detection, box)]
    both = max(0, height) * max(0, width)
    return both / (areas[0] if crowd else sum(areas) - both)


def random_images(seed, count):
    """Draw boxes on a coarse grid, and scores with few values. Both often tie. Some sides are above 32 or 96 pixels."""
    rng = np.random.default_rng(seed)

    def boxes(number):
        start = rng.integers(0, 4, (number, 2)) * 10
        return np.concatenate([start, start + rng.integers(1, 13, (number, 2)) * 10], axis=1)

    images = []
    for _ in range(count):
        objects, found = boxes(rng.integers(0, 6)), boxes(rng.integers(0, 9))
        near = rng.random(len(found)) < 0.6
        if len(objects):
            found[near] = objects[rng.integers(0, len(objects), near.sum())] + rng.integers(-1, 2, (near.sum(), 4)) * 2
        flags = [["crowd"] * (rng.random() < 0.2) + ["difficult"] * (rng.random() < 0.2) for _ in objects]
        images.append(
            (
                prediction(*((rng.integers(0, 2), rng.integers(1, 5) / 4, box) for box in found)),
                truth(
                    *(
                        (rng.integers(0, 2), box, *flag, float(rng.choice([500, 1024, 5000, 9216, 10000])))
                        for box, flag in zip(objects, flags, strict=True)
                    )
                ),
            )
        )
    return images


def by_score(predicted, index, most=None):
    """Return the (score, box) of a class in one image, best first. Equal scores keep their order."""
    found = zip(predicted["classes"], predicted["scores"].tolist(), predicted["boxes"].tolist(), strict=True)
    return sorted(((score, box) for which, score, box in found if which == index), key=lambda item: -item[0])[:most]


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def coco_by_loops(images, overlap=overlap, area=area):
    """Compute the twelve scores and the AP per class by the published algorithm.

    "boxes" may hold any regions that `overlap(detection, object, crowd)` and `area(region)` support.
    """
    ious, areas = np.linspace(0.5, 0.95, 10), ((0, 1e10), (0, 1024), (1024, 9216), (9216, 1e10))
    table, recalls = np.full((10, 101, 3, 4, 3), -1.0), np.full((10, 3, 4, 3), -1.0)
    for t, c, a, m in np.ndindex(10, 3, 4, 3):
        (low, high), results, positives = areas[a], [], 0
        for predicted, true in images:
            objects = [
                (crowd or not low <= annotated <= high, crowd, box)
                for which, box, crowd, annotated in zip(
                    true["classes"], true["boxes"].tolist(), true["crowd"], true["area"], strict=True
                )
                if which == c
            ]
            objects.sort(key=lambda item: item[0])
            positives += sum(not ignored for ignored, *_ in objects)
            taken = set()
            for score, box in by_score(predicted, c, (1, 10, 100)[m]):
                chosen, best = None, min(ious[t], 1 - 1e-10)
                for place, (ignored, crowd, other) in enumerate(objects):
                    if place in taken and not crowd:
                        continue
                    if chosen is not None and ignored and not objects[chosen][0]:
                        break  # prefer an object that counts to an ignored one
                    if overlap(box, other, crowd) >= best:
                        chosen, best = place, overlap(box, other, crowd)
                if chosen is None:
                    outside = not low <= area(box) <= high
                    results.append((score, False, outside))
                else:
                    taken.add(chosen)
                    results.append((score, True, objects[chosen][0]))
        if not positives:
            continue
        results.sort(key=lambda item: -item[0])
        counted = np.array([hit for _, hit, ignored in results if not ignored], float)
        hits = np.cumsum(counted)
        recall, curve = hits / positives, hits / np.arange(1, 1 + len(hits))
        recalls[t, c, a, m] = recall[-1] if len(hits) else 0
        for r, wanted in enumerate(np.linspace(0, 1, 101)):
            table[t, r, c, a, m] = curve[recall >= wanted].max(initial=0)

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else np.nan

    scores = [mean(part[..., 0, 2]) for part in (table, table[0], table[5])]
    scores += [mean(table[:, :, :, a, 2]) for a in (1, 2, 3)]
    scores += [mean(recalls[:, :, 0, m]) for m in range(3)] + [mean(recalls[:, :, a, 2]) for a in (1, 2, 3)]
    names = [f"AP/{name}" for name in NAMES]
    return dict(zip(TWELVE, scores, strict=True)) | dict(
        zip(names, (mean(table[:, :, c, 0, 2]) for c in range(3)), strict=True)
    )


def voc_by_loops(images, c):
    """Return (AP of 2007, AP of 2012) of a class, in a loop over its detections in order of falling score."""
    found = [(s, box, place) for place, (p, _) in enumerate(images) for s, box in by_score(p, c)]
    found.sort(key=lambda item: -item[0])
    taken, outcome, positives = set(), [], 0
    for _, true in images:
        positives += int(((true["classes"] == c) & ~true["crowd"] & ~true["difficult"]).sum())
    for _, box, place in found:
        true, most, chosen, covered = images[place][1], -1.0, None, False
        for index in np.flatnonzero(true["classes"] == c):
            value = overlap(box, true["boxes"][index].tolist(), true["crowd"][index])
            if true["crowd"][index]:
                covered |= value >= 0.5
            elif value > most:
                most, chosen = value, index
        if most >= 0.5 and true["difficult"][chosen]:
            continue
        if most >= 0.5 and (place, chosen) not in taken:
            taken.add((place, chosen))
            outcome.append(True)
        elif not covered:
            outcome.append(False)
    if not positives:
        return np.nan, np.nan
    hits = np.cumsum(outcome, dtype=int).tolist()
    points = [(Fraction(hit, positives), Fraction(hit, 1 + place)) for place, hit in enumerate(hits)]

    def best(recall):
        return max((p for r, p in points if r >= recall), default=Fraction(0))

    steps = sorted({Fraction(0), *(r for r, _ in points)})
    area = sum((right - left) * best(right) for left, right in itertools.pairwise(steps))
    return float(sum(best(Fraction(tenth, 10)) for tenth in range(11)) / 11), float(area)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_coco_equals_loops(seed, count):
    images = random_images(seed, count)
    scores = measured(*images, styles=("coco",)).compute()
    for name, expected in coco_by_loops(images).items():
        assert scores[name] == pytest.approx(expected, abs=1e-9, nan_ok=True), name


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6))
def test_voc_equals_loops(seed, count):
    images = random_images(seed, count)
    scores = measured(*images, styles=("voc07", "voc12")).compute()
    expected = np.array([voc_by_loops(images, c) for c in range(3)])
    for style, values in zip(("voc07", "voc12"), expected.T, strict=True):
        for name, value in zip(NAMES, values, strict=True):
            assert scores[f"AP_{style}/{name}"] == pytest.approx(value, abs=1e-12, nan_ok=True)
        mean = np.nanmean(values) if not np.isnan(values).all() else np.nan
        assert scores[f"mAP_{style}"] == pytest.approx(mean, abs=1e-12, nan_ok=True)


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)
ELSEWHERE = (70, 70, 90, 90)


def test_ap_of_three_detections_equals_hand_computed_values():
    # Two objects. The detections are right, wrong, right. Precision is 1 up to recall 1/2 (6 of the 11 recall levels)
    # and 2/3 up to recall 1 (5 of them).
    image = prediction((0, 0.9, A), (0, 0.8, ELSEWHERE), (0, 0.7, B)), truth((0, A), (0, B))
    scores = measured(image).compute()
    assert scores["AP_voc07/cat"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert scores["AP_voc12/cat"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["AP50/cat"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)  # recalls 0, 0.01, ..., 0.5 and the rest
    assert [scores[name] for name in ("AP", "AP75", "AP/cat")] == pytest.approx([scores["AP50"]] * 3)
    assert scores["AR1"] == 1 / 2 and scores["AR10"] == scores["AR100"] == scores["ARs"] == 1
    assert np.isnan([scores[name] for name in ("APm", "APl", "AP/dog", "AP_voc07/owl")]).all()
    assert scores["mAP_voc07"] == scores["AP_voc07/cat"]  # classes without ground truth are not in the mean


def test_recall_of_exactly_0_3_reaches_the_fourth_of_eleven_levels():
    # In float64, 3 / 10 is less than 3 * 0.1.
    objects = [(0, (20 * index, 0, 20 * index + 10, 10)) for index in range(10)]
    image = prediction(*((0, 0.9, box) for _, box in objects[:3])), truth(*objects)
    assert measured(image).compute()["AP_voc07/cat"] == pytest.approx(4 / 11)


def test_object_is_matched_once_and_voc_uses_the_largest_overlap():
    # Both detections overlap A most. In VOC the second one is wrong although B is free.
    a, b = (0, 0, 10, 10), (0, 4, 10, 14)
    image = prediction((0, 0.9, a), (0, 0.8, (0, 1, 10, 11))), truth((0, a), (0, b))
    assert overlap((0, 1, 10, 11), b) > 0.5
    scores = measured(image).compute()
    assert scores["AP_voc12/cat"] == 1 / 2 and scores["AP_voc07/cat"] == pytest.approx(6 / 11)
    assert scores["AP50/cat"] == 1  # COCO matches the objects that are still free


def test_iou_of_exactly_one_half_matches_and_sides_have_no_extra_pixel():
    half = prediction((0, 0.9, (0, 0, 10, 5)))
    assert measured((half, truth((0, A)))).compute()["AP_voc12/cat"] == 1
    less = prediction((0, 0.9, (0, 0, 10, 4.9)))  # with VOC's older + 1 the IoU would be 11 * 5.9 / 121 > 0.5
    assert measured((less, truth((0, A)))).compute()["AP_voc12/cat"] == 0


def test_difficult_objects_are_neither_hits_nor_misses_in_voc():
    # The difficult object may be missed, and detections on it, even two, are not false positives.
    objects = truth((0, A), (0, B, "difficult"))
    on_it = [(0, 0.9, B), (0, 0.85, B)]
    for detections in ([], on_it):
        scores = measured((prediction((0, 0.8, A), *detections), objects)).compute()
        assert scores["AP_voc07/cat"] == scores["AP_voc12/cat"] == 1
    ordinary = measured((prediction((0, 0.8, A), *on_it), truth((0, A), (0, B)))).compute()
    assert ordinary["AP_voc12/cat"] == pytest.approx((1 + 2 / 3) / 2)  # found, false, found
    # COCO counts it like any other object.
    assert measured((prediction((0, 0.8, A)), objects)).compute()["AR100"] == 1 / 2
    assert np.isnan(measured((prediction(*on_it), truth((0, B, "difficult")))).compute()["AP_voc12/cat"])


def test_detections_inside_a_crowd_are_ignored_unless_they_match_an_object():
    crowd = (0, 0, 100, 100)
    objects = truth((0, A), (0, crowd, "crowd"), (1, C))
    inside = (0, 0.9, (60, 60, 70, 70))  # an IoU of 0.01 with the crowd, but completely inside
    again = (0, 0.85, A)  # a second detection of A, also inside the crowd
    scores = measured((prediction(inside, again, (0, 0.8, A)), objects)).compute()
    for name in ("AP50/cat", "AP_voc07/cat", "AP_voc12/cat"):
        assert scores[name] == 1, name
    # A crowd of cats does not excuse a false dog.
    scores = measured((prediction((1, 0.9, (60, 60, 70, 70)), (1, 0.8, C)), objects)).compute()
    assert scores["AP_voc12/dog"] == 1 / 2 and scores["AP50/dog"] == pytest.approx(1 / 2)


def test_annotated_area_decides_the_size_of_an_object():
    image = prediction((0, 0.9, (0, 0, 100, 100))), truth((0, (0, 0, 100, 100), 1000.0))
    scores = measured(image).compute()
    assert scores["APs"] == 1 and np.isnan(scores["APl"])


def test_coco_uses_at_most_100_detections_per_class_and_image():
    wrong = [(0, 0.9, ELSEWHERE)] * 100
    scores = measured((prediction(*wrong, (0, 0.5, A)), truth((0, A)))).compute()
    assert scores["AR100"] == scores["AP50"] == 0 and scores["AP_voc12/cat"] == pytest.approx(1 / 101)
    assert measured((prediction(*wrong[1:], (0, 0.5, A)), truth((0, A)))).compute()["AR100"] == 1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_the_images_has_no_effect(seed):
    made = parts(*random_images(seed, 5))
    results = []
    for order in (range(5), np.random.default_rng(seed).permutation(5)):
        metric = AveragePrecision(NAMES, STYLES)
        for index in order:
            metric.add(*made[index])
        results.append((metric.compute(), precision.confusion(metric._tables()).tolist()))
    np.testing.assert_equal(results[0], results[1])


def test_row_added_after_compute_changes_the_scores():
    metric = measured((prediction((0, 0.9, A)), truth((0, A))))
    assert metric.compute()["AP50"] == 1
    metric.add(parts((prediction(), truth((0, A))))[0][0], 99)
    assert metric.compute()["AP_voc12/cat"] == 1 / 2


def test_coco_scores_use_the_given_limit_of_detections():
    """COCO uses 100 detections per class. With 150 objects, all found, recall stops at 100 / 150."""
    boxes = [(40 * (i % 15), 40 * (i // 15), 40 * (i % 15) + 20, 40 * (i // 15) + 20) for i in range(150)]
    image = prediction(*((0, 0.9 - i / 1000, box) for i, box in enumerate(boxes))), truth(*((0, box) for box in boxes))
    scores = {}
    for most in (5, 10, 100, 200):
        metric = AveragePrecision(NAMES, ("coco",), most)
        metric.add(metric.measure(*image), 1)
        scores[most] = metric.compute()
    assert scores[100]["AP50"] == pytest.approx(67 / 101) and scores[100]["AR100"] == pytest.approx(100 / 150)
    assert scores[200]["AP50"] == scores[200]["AR200"] == 1 and "AR100" not in scores[200]
    assert scores[5]["AR5"] == pytest.approx(5 / 150) and "AR10" not in scores[5] and scores[5]["AP50"] < 0.05
    assert scores[10]["AR10"] == scores[200]["AR10"] == pytest.approx(10 / 150)


def test_rows_keep_the_numbers_exactly():
    rng = np.random.default_rng(0)
    found = prediction(*((k % 3, rng.random(), rng.random(4) * 300) for k in range(20)))
    true = truth(*((k % 3, rng.random(4) * 300, *["crowd"] * (k == 2), float(rng.random())) for k in range(9)))
    metric = AveragePrecision(NAMES, ("coco",))
    row = json.loads(json.dumps(metric.measure(found, true)))
    assert row["objects"][2][5:7] == [1, 0] and isinstance(row["detections"][0][0], int)
    table = np.array(row["detections"])
    np.testing.assert_array_equal(table[:, 2:].astype(np.float32), found["boxes"])
    np.testing.assert_array_equal(table[:, 1].astype(np.float32), found["scores"])
    objects = np.array(row["objects"])
    np.testing.assert_array_equal(objects[:, 1:5], true["boxes"])
    np.testing.assert_array_equal(objects[:, 7], true["area"])
    assert json.loads(json.dumps(metric.measure(prediction(), truth()))) == {"objects": [], "detections": []}


def test_scores_without_ground_truth_are_nan(recwarn):
    empty = AveragePrecision(NAMES, STYLES).compute()
    per_class = [f"{kind}/{name}" for kind in ("AP", "AP50", "AP_voc07", "AP_voc12") for name in NAMES]
    assert set(empty) == {*TWELVE, "mAP_voc07", "mAP_voc12", *per_class}
    for image in ((prediction(), truth()), (prediction((0, 0.9, A)), truth()), (prediction(), truth((0, A, "crowd")))):
        scores = measured(image).compute()
        assert list(scores) == list(empty) and all(math.isnan(value) for value in scores.values())
        assert set(measured(image).pictures()) == {"confusion", "precision_recall"}
    missed = measured((prediction(), truth((1, A)))).compute()
    assert missed["AP"] == missed["AR100"] == missed["mAP_voc07"] == missed["AP_voc12/dog"] == 0
    assert math.isnan(missed["AP/cat"])
    assert AveragePrecision(NAMES, ("confusion",)).compute() == {}
    assert set(AveragePrecision(NAMES, ("confusion",)).pictures()) == {"confusion"}
    assert not recwarn


def test_boxes_without_area_match_nothing(recwarn):
    scores = measured((prediction((0, 0.9, (5, 5, 5, 9))), truth((0, (5, 5, 5, 9)), (0, A, "crowd")))).compute()
    assert scores["AP50"] == scores["mAP_voc12"] == 0 and not recwarn


def test_confusion_equals_the_hand_computed_matrix():
    objects = truth((0, A), (1, B), (1, C), (2, (60, 0, 70, 10), "difficult"), (0, (0, 50, 60, 100), "crowd"))
    found = prediction(
        (0, 0.9, A),
        (1, 0.8, A),  # a second detection on A is false
        (2, 0.7, B),  # a dog classified as an owl
        (1, 0.2, C),  # the score is too low, so C is not found
        (2, 0.6, (60, 0, 70, 10)),
        (1, 0.6, (10, 60, 20, 70)),  # in the crowd
        (2, 0.25, (80, 0, 90, 10)),
    )
    expected = [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert confusion((found, objects)) == expected
    assert confusion((found, objects), (prediction((0, 1.0, A)), truth()))[3] == [1, 1, 1, 0]
    assert confusion((prediction(), objects)) == [[0, 0, 0, 1], [0, 0, 0, 2], [0] * 4, [0] * 4]


def test_confusion_matches_detections_in_order_of_falling_score():
    first, second = (0, 0, 10, 10), (0, 3, 10, 13)
    found = prediction((1, 0.6, (0, 1, 10, 11)), (0, 0.9, (0, 1, 10, 11)))
    assert confusion((found, truth((0, first), (1, second)))) == [[1, 0, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]


def test_pictures_change_with_the_scores():
    good, bad = (measured((prediction((0, 0.9, box)), truth((0, A)))).pictures() for box in (A, ELSEWHERE))
    for name in ("confusion", "precision_recall"):
        assert good[name].dtype == np.uint8 and (good[name].shape != bad[name].shape or (good[name] != bad[name]).any())


# The command.


def square(left, top, side):
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def ground_truth():
    """Return ground truth with ids that are neither sorted nor dense.

    Image 7 has a cat, a difficult cat and a dog. Image 3 has a crowd of dogs.
    """
    return {
        "images": [
            {"id": 7, "file_name": "a/seven.jpg", "height": 40, "width": 50},
            {"id": 3, "file_name": "three.jpg", "height": 40, "width": 50},
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 4, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0,
             "segmentation": square(0, 0, 10)},
            {"id": 1, "image_id": 7, "category_id": 4, "bbox": [20, 0, 10, 10], "difficult": 1,
             "segmentation": square(20, 0, 10)},
            {"id": 2, "image_id": 7, "category_id": 9, "bbox": [20, 20, 10, 10], "segmentation": square(20, 20, 10)},
            {"id": 3, "image_id": 3, "category_id": 9, "bbox": [0, 0, 50, 40], "iscrowd": 1,
             "segmentation": {"size": [40, 50], "counts": [0, 2000]}},
        ],
    }  # fmt: skip


def results():
    """Return detections of the first cat, half of the dog, and a dog in the crowd with the highest score."""
    half = {"size": [40, 50], "counts": [20 * 40 + 20, 10] + [30, 10] * 4 + [2000 - 20 * 40 - 20 - 10 - 4 * 40]}
    return [
        {"image_id": 7, "category_id": 4, "score": 0.5, "bbox": [0, 0, 10, 10], "segmentation": square(0, 0, 10)},
        {"image_id": 7, "category_id": 9, "score": 0.25, "bbox": [20, 20, 5, 10], "segmentation": half},
        {"image_id": 3, "category_id": 9, "score": 0.9, "bbox": [5, 5, 5, 5], "segmentation": square(5, 5, 5)},
    ]


@pytest.fixture
def files(tmp_path):
    def write(known, found):
        paths = tmp_path / "gt.json", tmp_path / "dt.json"
        for path, content in zip(paths, (known, found), strict=True):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return [f"--ground_truth={paths[0]}", f"--detections={paths[1]}"]

    return write


def printed(capsys, *argv):
    assert main(list(argv)) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    return json.loads(out)


@pytest.mark.parametrize("style", ["coco", "voc07", "voc12"])
def test_command_prints_one_json_object_without_importing_jax(files, style):
    module = "experiments.metrics.average_precision"
    code = f"import sys; from {module} import main; main(sys.argv[1:]); assert 'jax' not in sys.modules"
    start = ["-m", module] if style == "coco" else ["-c", code]
    arguments = [sys.executable, *start, *files(ground_truth(), results()), f"--style={style}"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    scores = json.loads(done.stdout)
    if style == "coco":
        assert list(scores) == ["style", "iou_type", *TWELVE, "per_class"]
        # Cats have recall 1/2, which is 51 of 101 levels. The dog is found only at the lowest of the ten IoUs.
        assert scores["per_class"]["cat"] == pytest.approx({"AP": 51 / 101, "AP50": 51 / 101})
        assert scores["per_class"]["dog"] == pytest.approx({"AP": 1 / 10, "AP50": 1})
        assert scores["APm"] is None and scores["style"] == "coco" and scores["iou_type"] == "bbox"
    else:
        assert scores == {
            "style": style, "iou_type": "bbox", "iou": 0.5, "mAP": 1, "per_class": {"cat": 1, "dog": 1}
        }  # fmt: skip


def test_masks_may_be_polygons_or_run_lengths(files, capsys):
    arguments = files(ground_truth(), results())
    assert printed(capsys, *arguments, "--style=voc12", "--iou_type=segm")["per_class"] == {"cat": 1, "dog": 1}
    strict = printed(capsys, *arguments, "--style=voc12", "--iou_type=segm", "--iou=0.51")
    assert strict["per_class"] == {"cat": 1, "dog": 0} and strict["iou"] == 0.51
    scores = printed(capsys, *arguments, "--style=coco", "--iou_type=segm")
    assert scores["iou_type"] == "segm" and scores["per_class"]["dog"] == pytest.approx({"AP": 1 / 10, "AP50": 1})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0, 0.02, 0.5, 1]))
def test_compressed_and_plain_run_lengths_are_decoded(seed, share):
    rng = np.random.default_rng(seed)
    pixels = (rng.random(rng.integers(1, 90, 2)) < share).astype(np.uint8)
    height, width = pixels.shape
    flat = pixels.ravel(order="F")
    edges = [0, *np.flatnonzero(np.diff(flat, prepend=0)).tolist(), flat.size]
    text = mask.encode(np.asfortranarray(pixels))["counts"]
    for counts in (text.decode() if isinstance(text, bytes) else text, np.diff(edges).tolist()):
        entry = coco_files.Entry(
            "gt.json", "annotations[0]", {"segmentation": {"size": [height, width], "counts": counts}}
        )
        np.testing.assert_array_equal(mask.decode(entry.mask(height, width)), pixels)


def test_coco_style_with_one_iou_has_no_ap50_and_ap75(files, capsys):
    scores = printed(capsys, *files(ground_truth(), results()), "--style=coco", "--iou=0.5")
    assert list(scores) == [
        "style",
        "iou_type",
        "iou",
        *(name for name in TWELVE if name not in ("AP50", "AP75")),
        "per_class",
    ]
    assert scores["per_class"] == {"cat": {"AP": pytest.approx(51 / 101)}, "dog": {"AP": 1}}


def test_names_replace_ids_if_every_entry_has_them(files, capsys):
    by_id = printed(capsys, *files(ground_truth(), results()), "--style=coco")
    named = [
        entry | {"image_id": 0, "category_id": 0, "file_name": f"{file}.jpg", "category_name": category}
        for entry, file, category in zip(
            results(), ("here/a/seven", "here/a/seven", "there/three"), ("cat", "dog", "dog"), strict=True
        )
    ]
    assert printed(capsys, *files(ground_truth(), named), "--style=coco") == by_id
    del named[2]["category_name"]
    assert main([*files(ground_truth(), named), "--style=coco"]) == 1
    assert "detections[0] has category_id=0" in capsys.readouterr().err


def test_images_with_equal_names_are_distinguished_by_folder(files, capsys):
    """Detections match the images of their folder, whatever folders are above it. Other names are an error."""
    known, found = ground_truth(), results()
    for image, name in zip(known["images"], ("a/frame.jpg", "b/frame.jpg"), strict=True):
        image["file_name"] = name
    names = {image["id"]: image["file_name"] for image in known["images"]}
    named = [entry | {"image_id": "?", "file_name": f"val/{names[entry['image_id']]}"} for entry in found]
    by_id = printed(capsys, *files(known, found), "--style=coco")
    assert printed(capsys, *files(known, named), "--style=coco") == by_id
    for name, said in (
        ("c/frame.jpg", "is not in the list; it has 'a/frame.jpg' and 'b/frame.jpg', in other folders"),
        ("frame.jpg", "may be 'a/frame.jpg' and 'b/frame.jpg'; add the folders"),
    ):
        assert main([*files(known, [*named, named[0] | {"file_name": name}]), "--style=coco"]) == 1
        assert said in capsys.readouterr().err


def test_dataset_of_detections_uses_its_own_image_and_category_ids(files, capsys):
    by_id = printed(capsys, *files(ground_truth(), results()), "--style=coco")
    known, ids = ground_truth(), {}
    for kind in ("images", "categories"):
        for number, entry in enumerate(known[kind]):
            ids[kind, entry["id"]] = entry["id"] = 100 - number
    annotations = [
        entry | {"image_id": ids["images", entry["image_id"]], "category_id": ids["categories", entry["category_id"]]}
        for entry in results()
    ]
    assert printed(capsys, *files(ground_truth(), known | {"annotations": annotations}), "--style=coco") == by_id
    assert printed(capsys, *files(ground_truth(), {"annotations": results()}), "--style=coco") == by_id


def test_duplicate_objects_print_a_warning(files, capsys):
    known = ground_truth()
    known["annotations"] += [entry | {"id": 10 + entry["id"]} for entry in known["annotations"][:2]]
    assert main([*files(known, results()), "--style=coco"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["AP"] < 1 and "gt.json has 2 exact duplicates of objects" in err and err.count("\n") == 1


def test_no_detections_score_zero(files, capsys):
    arguments = files(ground_truth(), [])
    assert printed(capsys, *arguments, "--style=coco")["AP"] == 0
    assert printed(capsys, *arguments, "--style=coco", "--iou_type=segm")["AR100"] == 0
    assert printed(capsys, *arguments, "--style=voc07")["per_class"] == {"cat": 0, "dog": 0}
    nothing = files(ground_truth() | {"annotations": []}, results())
    for style in ("coco", "voc12"):
        scores = printed(capsys, *nothing, f"--style={style}")
        assert scores["AP" if style == "coco" else "mAP"] is None


def test_command_and_metric_give_the_same_scores(files, capsys):
    images = random_images(5, 6)
    found, known = (
        [],
        {"images": [], "annotations": [], "categories": [{"id": k, "name": n} for k, n in enumerate(NAMES)]},
    )
    for image, (row, _) in enumerate(parts(*images)):
        known["images"].append({"id": image})
        for label, top, left, bottom, right, crowd, difficult, area in row["objects"]:
            box = {"bbox": [left, top, right - left, bottom - top], "iscrowd": crowd, "ignore": difficult, "area": area}
            known["annotations"].append({"image_id": image, "category_id": label} | box)
        for label, score, top, left, bottom, right in row["detections"]:
            box = {"bbox": [left, top, right - left, bottom - top], "score": score}
            found.append({"image_id": image, "category_id": label} | box)
    scores = measured(*images).compute()
    for style in ("coco", "voc07", "voc12"):
        end, out = "" if style == "coco" else f"_{style}", printed(capsys, *files(known, found), f"--style={style}")
        for name, value in out.pop("per_class").items():
            kinds = value if style == "coco" else {"AP": value}
            for kind, number in kinds.items():
                np.testing.assert_equal(math.nan if number is None else number, scores[f"{kind}{end}/{name}"])
        for name in TWELVE if style == "coco" else ("mAP",):
            np.testing.assert_equal(math.nan if out[name] is None else out[name], scores[f"{name}{end}"])


def changed(content, *path, value=None):
    """Copy `content` with the item at `path` replaced, or removed without a value."""
    content = json.loads(json.dumps(content))
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


GT, DT = ground_truth(), results()


@pytest.mark.parametrize(
    ("known", "found", "more", "said"),
    [
        ("{", DT, (), "gt.json is not JSON ("),
        ([], DT, (), "gt.json: not COCO's ground truth, an object of images, annotations and categories"),
        (changed(GT, "images"), DT, (), "gt.json: not COCO's ground truth"),
        (changed(GT, "images", value=3), DT, (), "gt.json: images must be a list, but are 3"),
        (changed(GT, "images", 1, "id", value=7), DT, (), "gt.json: images[1] has id=7, which another entry"),
        (changed(GT, "categories", 1, "name", value="dog"), DT, (), 'categories[0] has name="dog", which another'),
        (changed(GT, "annotations", 2, "bbox"), DT, (), "gt.json: annotations[2] lacks 'bbox'"),
        (changed(GT, "annotations", 2, "image_id", value=8), DT, (), "annotations[2] has image_id=8, which"),
        (changed(GT, "annotations", 0, "area", value="big"), DT, (), 'annotations[0] has area="big", which must be a finite'),
        (changed(GT, "annotations", 0, "segmentation"), DT, ("--iou_type=segm",), "annotations[0] lacks 'segmentation'"),
        (changed(GT, "images", 0, "height"), DT, ("--iou_type=segm",), "images[0] lacks 'height'"),
        (changed(GT, "images", 0, "height", value=-5), DT, ("--iou_type=segm",), "images[0] has height=-5, which must be"),
        (changed(GT, "images", 0, "height", value=0), DT, ("--iou_type=segm",), "height=0, which must be a whole number from 1"),
        (changed(GT, "images", 1, "width", value=50.5), DT, ("--iou_type=segm",), "width=50.5, which must be a whole number"),
        (changed(GT, "images", 1, "width", value=1e30), DT, ("--iou_type=segm",), "images[1] has width=1e+30, which must be"),
        (changed(GT, "annotations", 0, "area", value=10**400), DT, (), "annotations[0] has area=1000"),
        (changed(GT, "images", 0, "id", value=-(10**400)), DT, (), "images[0] has id=-1000"),
        ("[" * 100_000, DT, (), "gt.json has lists or objects nested more than 50 deep"),
        (GT, "[1, ", (), "dt.json is not JSON ("),
        (GT, '[{"score":' * 100_000, (), "dt.json has lists or objects nested more than 50 deep"),
        (GT, changed(DT, 0, "bbox", value=[0, 0, 10**400, 1]), (), "which must be [left, top, width, height] in pixels"),
        (GT, {"results": DT}, (), "dt.json: detections must be a list"),
        (GT, GT, (), "lacks 'score'"),
        (GT, [*DT, 5], (), "dt.json: detections[3] is not a JSON object: 5"),
        (GT, changed(DT, 1, "score"), (), "dt.json: detections[1] lacks 'score'"),
        (GT, changed(DT, 1, "score", value=math.nan), (), "detections[1] has score=NaN, which must be a finite"),
        (GT, changed(DT, 1, "image_id", value=8), (), "dt.json: detections[1] has image_id=8, which"),
        (GT, changed(DT, 1, "image_id", value=[7]), (), "image_id=[7], which must be a whole number or text"),
        (GT, changed(DT, 0, "category_id", value=5), (), "dt.json: detections[0] has category_id=5, which"),
        (GT, changed(DT, 0, "bbox", value=[1, 2, 3]), (), "detections[0] has bbox=[1, 2, 3], which must be [left"),
        (GT, changed(DT, 0, "bbox", value=[1, 2, -3, 4]), (), "detections[0] has bbox=[1, 2, -3, 4], which must be"),
        (GT, changed(DT, 0, "bbox", value=[1, math.inf, 3, 4]), (), "bbox=[1, Infinity, 3, 4], which must be"),
        (GT, changed(DT, 1, "segmentation"), ("--iou_type=segm",), "detections[1] lacks 'segmentation'"),
        (GT, changed(DT, 1, "segmentation", "size", value=[50, 40]), ("--iou_type=segm",), "run lengths of a mask of 40x50"),
        (GT, changed(DT, 1, "segmentation", "counts", value=[5]), ("--iou_type=segm",), "run lengths of a mask of 40x50"),
        (GT, changed(DT, 1, "segmentation", "counts", value="\x01zz"), ("--iou_type=segm",), "run lengths of a mask of"),
        (GT, changed(DT, 1, "segmentation", "counts", value="d03~"), ("--iou_type=segm",), "run lengths of a mask of"),
        (GT, changed(DT, 1, "segmentation", "counts", value="0o1"), ("--iou_type=segm",), "run lengths of a mask of"),
        (GT, changed(DT, 1, "segmentation", "counts", value="\ud800"), ("--iou_type=segm",), "run lengths of a mask of"),
        (GT, changed(DT, 0, "segmentation", value=[[1, 2, 3]]), ("--iou_type=segm",), "which must be polygons within"),
        (GT, changed(DT, 0, "segmentation", 0, 3, value=1e300), ("--iou_type=segm",), "must be polygons within 1000000 pix"),
        (GT, changed(DT, 0, "segmentation", 0, 3, value=-1e9), ("--iou_type=segm",), "must be polygons within 1000000 pixe"),
        (GT, changed(DT, 0, "segmentation", 0, 3, value=10**400), ("--iou_type=segm",), "must be polygons within 1000000"),
        (GT, DT, ("--iou=0",), "--iou=0.0 is not supported; choose an overlap above 0 and at most 1"),
        (GT, DT, ("--detections=nowhere.json",), "nowhere.json does not exist"),
    ],
)  # fmt: skip
def test_invalid_files_and_flags_print_a_one_line_error(files, capsys, known, found, more, said):
    assert main([*files(known, found), "--style=coco", *more]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert said in err


def test_json_of_any_depth_prints_a_one_line_error(files, capsys):
    # Near the recursion limit, reading the file or printing the error may fail.
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit() + 10):
        assert main([*files(GT, "[" * depth + "]" * depth), "--style=coco"]) == 1
        assert capsys.readouterr().err.count("\n") == 1


KNOWN = {
    "bbox": (".504581 .696973 .572982 .585626 .519400 .501398", ".386813 .593680 .595353 .639811 .566421 .564291"),
    "segm": (".319545 .562288 .298927 .387374 .310183 .326934", ".268230 .415449 .416839 .469450 .376759 .381472"),
}


@pytest.fixture(scope="module")
def cocoapi():
    folder = ROOT.parent / "shared" / "fixtures" / "cocoapi"
    if not folder.is_dir():
        pytest.skip("needs cocoapi's demonstration results, ../shared/fixtures/cocoapi")
    return folder


@pytest.mark.parametrize("kind", KNOWN)
def test_twelve_scores_equal_the_output_of_cocoapi(cocoapi, capsys, kind):
    paths = cocoapi / "instances_val2014_100.json", cocoapi / f"instances_val2014_fake{kind}100_results.json"
    arguments = f"--ground_truth={paths[0]}", f"--detections={paths[1]}", "--style=coco", f"--iou_type={kind}"
    scores = printed(capsys, *arguments)
    assert [scores[name] for name in TWELVE] == pytest.approx(
        [float(number) for number in " ".join(KNOWN[kind]).split()], abs=1e-6
    )
    assert len(scores["per_class"]) == 80 and scores["per_class"]["person"]["AP50"] > 0.6


@pytest.mark.parametrize(("kind", "seed"), [("bbox", 0), ("bbox", 1), ("segm", 2), ("segm", 3)])
def test_scores_equal_pycocotools_on_synthetic_files(tmp_path, kind, seed):
    """Files have crowds, equal scores, all sizes, images without objects or detections, and masks without boxes."""
    rng = np.random.default_rng(seed)
    images = [{"id": 7 * index + 3, "height": 200, "width": 240} for index in range(12)]

    def region():
        (left, top), (width, height) = rng.integers(0, 100, 2).tolist(), rng.integers(1, 101, 2).tolist()
        polygon = [left, top, left + width, top, left + width, top + height, left, top + height]
        return {"segmentation": [polygon], "bbox": [left, top, width, height]}

    known, found = [], []
    for image in images[:-1]:
        for _ in range(rng.integers(0, 6)):
            row = region() | {"image_id": image["id"], "category_id": int(rng.choice([2, 5])), "id": len(known) + 1}
            known.append(row | {"area": float(rng.integers(10, 15000)), "iscrowd": int(rng.random() < 0.2)})
            if row["id"] % 2:
                near = {name: row[name] for name in ("bbox", "segmentation", "image_id", "category_id")}
                found.append(near | {"score": float(rng.integers(1, 5)) / 5})
    for image in images[1:]:
        row = region() | {"image_id": image["id"], "category_id": int(rng.choice([2, 5]))}
        found.append(row | {"score": float(rng.integers(1, 5)) / 5})
    if seed == 3:
        for row in found:
            del row["bbox"]
            runs = mask.segmToRle(row["segmentation"], 240, 200)
            row["segmentation"] = runs | {"counts": runs["counts"].decode()}
    categories = [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}]
    paths = tmp_path / "known.json", tmp_path / "found.json"
    for path, content in zip(
        paths, ({"images": images, "annotations": known, "categories": categories}, found), strict=True
    ):
        path.write_text(json.dumps(content))
    assert_every_digit(paths, kind)


@pytest.mark.parametrize("kind", KNOWN)
def test_scores_equal_pycocotools_on_the_demonstration_files(cocoapi, kind):
    paths = cocoapi / "instances_val2014_100.json", cocoapi / f"instances_val2014_fake{kind}100_results.json"
    assert_every_digit(paths, kind)


def assert_every_digit(paths, kind):
    truths = COCO(str(paths[0]))
    theirs = COCOeval(truths, truths.loadRes(str(paths[1])), kind)
    for step in (theirs.evaluate, theirs.accumulate, theirs.summarize):
        step()
    whole = precision.coco(coco_files.read(*paths, kind)[0]).whole
    expected = [math.nan if value == -1 else value for value in theirs.stats.tolist()]
    np.testing.assert_allclose([whole[name] for name in TWELVE], expected, atol=1e-9)
