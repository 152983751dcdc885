"""Outcomes agree with cases computed by hand, a plain loop, and the recall of COCO's tools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.metrics import precision
from experiments.metrics.average_precision import AveragePrecision
from experiments.pictures.outcomes import IOU, Outcome, judge
from input_pipeline.masks import Mask, collect

SIZE = (100, 100)


def objects(*boxes, classes=None, **flags):
    rows = {"boxes": np.array(boxes, float).reshape(-1, 4), "area": np.full(len(boxes), 50.0)}
    rows["classes"] = np.zeros(len(boxes), int) if classes is None else np.array(classes)
    return rows | {name: np.array(flags.get(name, np.zeros(len(boxes))), bool) for name in ("crowd", "difficult")}


def detections(*boxes, scores, classes=None):
    rows = objects(*boxes, classes=classes)
    return {name: rows[name] for name in ("boxes", "classes")} | {"scores": np.array(scores, np.float32)}


def outcomes(truth, found, least_score=0.25):
    return [Outcome(own).name for own in judge(truth, found, SIZE, least_score)["outcomes"]]


def test_detection_with_the_higher_score_is_the_hit():
    box = (10, 10, 30, 30)
    assert outcomes(objects(box), detections(box, (10, 12, 30, 32), scores=[0.6, 0.9])) == ["FALSE_ALARM", "HIT"]


@pytest.mark.parametrize(("width", "found"), [(20, True), (19, False)])
def test_iou_of_one_half_is_a_hit(width, found):
    """The overlap of 40 x 20 pixels with 40 x 40 is 0.5."""
    truth, own = objects((0, 0, 40, 40)), detections((0, 0, 40, width), scores=[0.9])
    assert outcomes(truth, own) == (["HIT"] if found else ["FALSE_ALARM", "MISSED"])


def test_another_class_or_a_low_score_is_not_a_hit():
    box = (10, 10, 30, 30)
    assert outcomes(objects(box), detections(box, scores=[0.9], classes=[1])) == ["FALSE_ALARM", "MISSED"]
    assert outcomes(objects(box), detections(box, scores=[0.2])) == ["MISSED"]
    assert outcomes(objects(), detections(box, scores=[0.9])) == ["FALSE_ALARM"]
    assert outcomes(objects(), detections(scores=[])) == []


def test_crowds_and_difficult_objects_are_not_counted():
    crowd, inside = (0, 0, 100, 100), (10, 10, 20, 20)
    found = detections(inside, (30, 30, 40, 40), scores=[0.9, 0.8])
    assert outcomes(objects(crowd, crowd=[True]), found) == ["NOT_COUNTED"] * 2
    assert outcomes(objects(inside, difficult=[True]), found) == ["NOT_COUNTED", "FALSE_ALARM"]
    assert outcomes(objects(crowd, inside, crowd=[True, False]), found) == ["HIT", "NOT_COUNTED"]


def test_missed_objects_come_last_and_have_no_score():
    truth = objects((10, 10, 30, 30), (50, 50, 70, 70), classes=[0, 1])
    rows = judge(truth, detections((10, 10, 30, 30), scores=[0.9]), SIZE, 0.25)
    assert rows["boxes"].tolist() == truth["boxes"].tolist() and rows["classes"].tolist() == [0, 1]
    assert rows["scores"][0] == np.float32(0.9) and np.isnan(rows["scores"][1])


def test_masks_are_compared_instead_of_boxes():
    """The masks are two halves of one box, above and below its diagonal."""
    half = np.tri(20, dtype=bool)
    truth, found = objects((10, 10, 30, 30)), detections((10, 10, 30, 30), scores=[0.9])
    for mask, expected in ((half, ["HIT"]), (~half, ["FALSE_ALARM", "MISSED"])):
        masks = {"masks": collect([Mask(half, (10, 10))])}, {"masks": collect([Mask(mask, (10, 10))])}
        assert outcomes(truth | masks[0], found | masks[1]) == expected


def scene(rng, count):
    """Return objects without crowds, and detections near them with different scores."""
    corner, sides = rng.uniform(0, 60, (count, 2)), rng.uniform(10, 40, (count, 2))
    truth = objects(*np.concatenate([corner, corner + sides], -1), classes=rng.integers(0, 3, count))
    near = rng.integers(0, count, 3 * count)
    boxes = truth["boxes"][near] + rng.uniform(-8, 8, (3 * count, 4))
    scores = 0.3 + rng.permutation(3 * count) / (5 * count)
    return truth, detections(*boxes, scores=scores, classes=truth["classes"][near])


def measure(a, b):
    """Compute the intersection over the union of two boxes by hand."""
    height, width = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return height * width / (sum(areas) - height * width)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12))
def test_hits_equal_a_plain_loop_and_coco_tools(seed, count):
    truth, found = scene(np.random.default_rng(seed), count)
    expected, taken = ["FALSE_ALARM"] * len(found["scores"]), set()
    for index in np.argsort(-found["scores"]):
        best, most = None, IOU
        for other in range(count):
            iou = measure(found["boxes"][index], truth["boxes"][other])
            if other not in taken and truth["classes"][other] == found["classes"][index] and iou >= most:
                best, most = other, iou
        if best is not None:
            expected[index] = "HIT"
            taken.add(best)
    own = outcomes(truth, found)
    assert own == expected + ["MISSED"] * (count - len(taken))
    metric = AveragePrecision(("a", "b", "c"), ("coco",))
    metric.add(metric.measure(found, truth), 0)
    present = np.unique(truth["classes"])
    recalls = [np.mean([k in taken for k in np.flatnonzero(truth["classes"] == index)]) for index in present]
    assert precision.coco(metric._tables(), (IOU,)).whole["AR100"] == pytest.approx(np.mean(recalls))


def test_overlap_threshold_equals_the_confusion_matrix():
    assert IOU == precision.VOC_IOU
