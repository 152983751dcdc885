"""Thinned curves, which keep extremes, ends and means, and the hours of a run."""

import numpy as np
import pytest

from experiments.compare.curves import POINTS, find_hours, read_columns, thin
from experiments.compare.runs import Run


def make(rows, config=None):
    return Run("run", None, config or {"train.batch_size": 10}, rows, [], [])


def test_columns_are_the_defined_numbers():
    rows = [{"step": 1, "a": 1, "b": None, "c": "x", "d": True}, {"step": 2, "a": float("nan"), "b": 2.5, "e": [1]}]
    columns = read_columns(make([*rows, {"step": 3, "a": float("inf")}, {"step": 4, "a": 4}]))
    assert {name: [own.tolist() for own in column] for name, column in columns.items()} == {
        "a": [[1, 4], [1, 4]],
        "b": [[2], [2.5]],
    }


def test_the_newest_row_of_a_repeated_step_counts():
    columns = read_columns(make([{"step": 5, "a": 1}, {"step": 3, "a": 2}, {"step": 5, "a": 3}]))
    assert [own.tolist() for own in columns["a"]] == [[3, 5], [2, 3]]


def test_a_short_curve_is_unchanged():
    steps, values = np.arange(POINTS), np.random.default_rng(0).random(POINTS)
    (curve,) = thin([(steps, values)])
    assert curve.steps is steps and curve.values is values and curve.means is None


@pytest.mark.parametrize("seed", range(3))
def test_a_thinned_curve_keeps_extremes_and_ends(seed):
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(1, 9, 20_000)).astype(float)
    values = rng.normal(size=len(steps))
    spike, dip = rng.choice(len(steps), 2, replace=False)
    values[spike], values[dip] = 50, -50
    (curve,) = thin([(steps, values)])
    assert POINTS / 2 < len(curve.steps) < 1.1 * POINTS and (np.diff(curve.steps) > 0).all()
    kept = dict(zip(curve.steps, curve.values, strict=True))
    for place in (0, len(steps) - 1, spike, dip):
        assert kept[steps[place]] == values[place]
    # Each kept value is a value of the run. The other values lie between two kept values nearby.
    own = dict(zip(steps, values, strict=True))
    assert all(own[step] == value for step, value in kept.items())
    edges = np.linspace(steps[0], steps[-1], POINTS // 2 + 1)
    for low, high in [(edges[3], edges[4]), (edges[100], edges[101])]:
        inside, thinned = ([value for step, value in curve.items() if low <= step < high] for curve in (own, kept))
        assert (min(inside), max(inside)) == (min(thinned), max(thinned))


def test_bucket_means_cover_all_values_and_share_steps_between_seeds():
    """Spikes are rare, so the mean of a bucket's smallest and largest value is far from its mean."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 10_001, dtype=float)
    runs = [np.where(rng.random(len(steps)) < 0.01, 100.0, 1.0) for _ in range(3)]
    curves = thin([(steps, values) for values in runs] + [(steps[:4_000], runs[0][:4_000])])
    for curve, values in zip(curves, runs, strict=False):
        np.testing.assert_array_equal(curve.middles, curves[0].middles)
        assert len(curve.means) == POINTS // 2
        assert curve.means.mean() == pytest.approx(values.mean(), rel=1e-3)  # the last bucket has one more step
    short = curves[3]
    whole = len(short.means) - 1  # the last one ends with the run
    np.testing.assert_array_equal(short.middles[:whole], curves[0].middles[:whole])
    np.testing.assert_allclose(short.means[:whole], curves[0].means[:whole])


def test_hours_include_training_and_evaluations():
    rows = [
        {"step": 100, "time/images_per_second": 2.0},  # 100 steps of 10 images: 500 s
        {"step": 150, "val/mIoU": 0.5, "time/evaluation": 60.0},  # no rate, so the rate of the next row counts
        {"step": 200, "time/images_per_second": 5.0},  # 50 + 50 steps: 200 s
        {"step": 260, "time/evaluation": 40.0},  # 60 steps after the last rate, 120 s
    ]
    found = find_hours(make(rows))
    assert found is not None
    steps, hours = found
    assert steps.tolist() == [0, 100, 150, 200, 260]
    np.testing.assert_allclose(3600 * hours, [0, 500, 660, 760, 920])


@pytest.mark.parametrize("rows", [[], [{"step": 1}], [{"step": 1, "time/images_per_second": None}]])
def test_runs_without_a_rate_have_no_hours(rows):
    assert find_hours(make(rows)) is None
    assert find_hours(make([{"step": 1, "time/images_per_second": 2.0}], {"model.name": "x"})) is None


def test_hours_of_many_rows_are_thinned():
    rows = [{"step": step, "time/images_per_second": 10.0} for step in range(1, 5001)]
    found = find_hours(make(rows))
    assert found is not None
    steps, hours = found
    assert len(steps) <= POINTS + 1 and steps[-1] == 5000
    np.testing.assert_allclose(3600 * hours, steps)
