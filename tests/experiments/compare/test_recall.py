"""The precision-recall curves of a page, whose areas are the AP50 of a run for each class."""

import numpy as np
import pytest

from experiments.compare.curves import decode
from experiments.compare.recall import RECALLS, collect_recall, sample
from experiments.compare.runs import read_run
from experiments.metrics.average_precision import AveragePrecision
from tests.experiments.compare.synthetic import CLASSES, make_run
from tests.experiments.metrics.test_resample import box_parts


def make(workdir, styles, parts):
    records = [{"image_id": i, "name": str(i), "source_id": i, "average_precision": own} for i, own in enumerate(parts)]
    return read_run(make_run(workdir, {"eval.metrics": list(styles)}, records=records), workdir.name)


def draw_parts(seed, classes=2):
    """Return records of 12 images with objects of the first `classes`."""
    return box_parts(np.random.default_rng(seed), 12, classes)


@pytest.mark.parametrize("styles", [("coco",), ("confusion", "coco", "voc07"), ("voc12",)])
def test_curves_give_the_average_precision(tmp_path, styles):
    parts = draw_parts(0)
    metric = AveragePrecision(CLASSES, styles)
    for image, part in enumerate(parts):
        metric.add(part, image)
    scores = metric.compute()
    found = collect_recall([(7, make(tmp_path / "run", styles, parts))])["boxes"]
    kind = "AP50" if "coco" in styles else "AP_voc12"
    wanted = [scores[f"{kind}/{name}"] for name in CLASSES]
    assert found["classes"] == list(CLASSES) and list(found["runs"]) == [7]
    own = found["runs"][7]
    np.testing.assert_allclose(own["scores"], [*wanted, np.mean(wanted)])
    curves = decode(own["curves"], "<f4").reshape(3, len(RECALLS))
    assert (np.diff(curves) <= 1e-7).all(), "precision falls"
    # COCO's AP is the mean over these recalls. VOC's area is near it.
    np.testing.assert_allclose(curves.mean(1), own["scores"], atol=1e-6 if "coco" in styles else 0.02)


def test_a_class_without_objects_has_no_curve(tmp_path):
    parts = draw_parts(1, classes=1)
    own = collect_recall([(0, make(tmp_path / "run", ("coco",), parts))])["boxes"]["runs"][0]
    curves = decode(own["curves"], "<f4").reshape(3, -1)
    assert np.isnan(curves[1]).all() and np.isnan(own["scores"][1])
    np.testing.assert_array_equal(curves[2], curves[0])


def test_precision_is_constant_until_its_recall():
    precision = sample((np.array([0.25, 0.5]), np.array([1.0, 0.5])))
    assert precision[[0, 25, 26, 50, 51, 100]].tolist() == [1, 1, 0.5, 0.5, 0, 0]
    assert np.isnan(sample(None)).all()


def test_runs_without_boxes_or_records_are_left_out(tmp_path):
    runs = [read_run(make_run(tmp_path / "labels"), "labels"), make(tmp_path / "early", ("coco",), [])]
    damaged = make(tmp_path / "damaged", ("coco",), draw_parts(2))
    path = damaged.workdir / "records" / "val.jsonl"
    path.write_text(path.read_text()[:-40])
    assert collect_recall(list(enumerate([*runs, damaged]))) == {}
