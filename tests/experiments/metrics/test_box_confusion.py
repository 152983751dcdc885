"""The confusion matrix of boxes equals a plain loop, and its picture shows these counts."""

import json

import numpy as np
import pytest

from experiments.metrics import average_precision, precision
from experiments.metrics.average_precision import AveragePrecision
from tests.experiments.metrics.test_average_precision import NAMES, overlap, random_images


def count_by_hand(images):
    """Count with plain loops.

    Detections with a score of 0.25 or more match in order of falling score. Each one takes the free object of any class
    that it overlaps most.
    """
    counts = np.zeros((len(NAMES) + 1, len(NAMES) + 1), int)
    for found, true in images:
        skipped, free = [], []
        for index, box in enumerate(true["boxes"]):
            crowd = bool(true["crowd"][index])
            (skipped if crowd or true["difficult"][index] else free).append((index, box, crowd))
        for detection in np.argsort(-found["scores"], kind="stable"):
            if found["scores"][detection] < 0.25:
                continue
            box, best, most = found["boxes"][detection].astype(float), None, 0.5
            for place, (_, other, _) in enumerate(free):
                iou = overlap(box, other)
                if iou > most or (iou == most and best is None):
                    best, most = place, iou
            if best is not None:
                index, _, _ = free.pop(best)
                counts[true["classes"][index], found["classes"][detection]] += 1
            elif not any(overlap(box, other, crowd) >= 0.5 for _, other, crowd in skipped):
                counts[-1, found["classes"][detection]] += 1
        for index, _, _ in free:
            counts[true["classes"][index], -1] += 1
    return counts


@pytest.mark.parametrize("seed", range(6))
def test_picture_has_the_counts_of_a_plain_loop(seed, monkeypatch):
    images = random_images(seed, 25)
    expected = count_by_hand(images)
    metric = AveragePrecision(NAMES, ("confusion",))
    for index, (found, true) in enumerate(images):
        metric.add(json.loads(json.dumps(metric.measure(found, true))), index)
    drawn = []

    def draw(*arguments):
        drawn.append(arguments)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(average_precision, "plot_box_confusion", draw)
    metric.pictures()
    ((counts, names, iou, score),) = drawn
    np.testing.assert_array_equal(counts, expected)
    assert (names, iou, score) == (NAMES, precision.VOC_IOU, precision.CONFIDENT)
    assert expected[:-1, :-1].trace() > 5 and expected[-1].sum() > 5 and expected[:, -1].sum() > 5
