import math

import pytest

from experiments.run.spread import find_interval, format_spread, measure_spread


def test_interval_equals_students_t():
    """The values 1, 2, 3, 4 have the standard deviation sqrt(5/3). Tables give t = 3.18245 for three degrees of freedom."""
    mean, low, high = find_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * math.sqrt(5 / 3) / 2
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half), rel=1e-6)
    mean, low, high = find_interval([0.5] * 8)
    assert (mean, low, high) == (0.5, 0.5, 0.5)
    mean, low, high = find_interval([1.0])
    assert mean == 1.0 and math.isnan(low) and math.isnan(high)


def test_the_spread_covers_the_last_rows_and_leaves_out_undefined_scores():
    rows = {
        "seed=0": {"step": 9, "train/loss": 1.0, "val/AP": 0.5, "val/IoU/cat": None, "val/examples": "a.png"},
        "seed=1": {"step": 9, "train/loss": 2.0, "val/AP": 0.7, "val/IoU/cat": 0.25, "val/examples": "b.png"},
        "seed=2": {"step": 9, "train/loss": 2.0, "val/AP": 0.6, "val/IoU/cat": None, "val/examples": "b.png"},
    }
    spread = measure_spread(rows)
    assert spread["scores"].keys() == {"val/AP", "val/IoU/cat"} and spread["members"] == list(rows)
    found = spread["scores"]["val/AP"]
    assert found["values"] == {"seed=0": 0.5, "seed=1": 0.7, "seed=2": 0.6} and found["count"] == 3
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found["low"], found["high"]) == pytest.approx((0.6 - half, 0.6 + half), rel=1e-6)
    cat = spread["scores"]["val/IoU/cat"]
    assert (cat["mean"], cat["low"], cat["high"], cat["count"]) == (0.25, None, None, 1)
    lines = [line.split() for line in format_spread(spread).splitlines()]
    assert lines[1] == ["AP", "0.6000", f"{0.6 - half:.4f}", f"{0.6 + half:.4f}", "3"]
    assert lines[2] == ["IoU/cat", "0.2500", "-", "-", "1"]
