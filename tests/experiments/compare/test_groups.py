"""Groups of runs that differ only in their seeds."""

import math

import pytest

from experiments.compare.groups import Spread, count_states, describe, find_varied, fold, list_repeated, spread
from experiments.compare.runs import find_runs
from tests.experiments.compare.synthetic import make_run


def folded(folder, **how):
    groups = fold(find_runs([str(folder)]), **how)
    return {group.name: (len(group.runs), dict(group.fields)) for group in groups}


def test_runs_are_grouped_over_seeds_but_not_over_fields(tmp_path):
    for lr in (0.1, 0.2):
        for seed in (0, 1, 2):
            fields = {"optim.lr": lr, "seed.init": seed, "seed.data": seed, "wandb.name": f"{lr} {seed}"}
            make_run(tmp_path / f"lr={lr},seed={seed}-{seed}f9a1c", fields)
    assert folded(tmp_path) == {"lr=0.1": (3, {"optim.lr": 0.1}), "lr=0.2": (3, {"optim.lr": 0.2})}
    assert len(folded(tmp_path, seeds=False)) == 6


def test_groups_with_unclear_directories_are_named_by_fields(tmp_path):
    make_run(tmp_path / "first")
    make_run(tmp_path / "second", {"seed.init": 1})
    make_run(tmp_path / "third", {"model.name": "fcn", "optim.lr": 0.5})
    assert list(folded(tmp_path)) == ["model=unet,lr=0.001", "third"]


def test_a_field_newer_than_a_run_does_not_differ(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", {"train.novel": 3, "optim.lr": 0.5})
    assert find_varied(find_runs([str(tmp_path)])) == ["optim.lr"]


def test_a_missing_field_differs_if_nothing_else_does(tmp_path):
    """A second loss adds fields and changes none, so without it two rows of a table would look alike."""
    make_run(tmp_path / "a", {"task.losses.dice.factor": 1.0})
    make_run(tmp_path / "b")
    make_run(tmp_path / "c", {"model.name": "fcn"})
    assert folded(tmp_path)["a"] == (1, {"model.name": "unet", "task.losses.dice.factor": 1.0})
    assert folded(tmp_path)["b"] == (1, {"model.name": "unet"})


def test_an_extended_run_differs_from_a_run_planned_that_long(tmp_path):
    plans = [{"from": 0, "steps": 5, "exact": True}, {"from": 5, "steps": 10, "exact": False}]
    make_run(tmp_path / "planned")
    make_run(tmp_path / "exactly", {"seed.init": 1}, plans=plans[:1])
    make_run(tmp_path / "extended", {"seed.init": 2}, plans=plans)
    assert sorted(folded(tmp_path).values(), key=str) == [(1, {"train.plans": "5, then 10"}), (2, {})]


def test_runs_with_equal_seeds_are_listed(tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 1), ("d", 2)):
        make_run(tmp_path / name, {"seed.init": seed})
    (group,) = fold(find_runs([str(tmp_path)]))
    assert list_repeated(group) == ["b", "c"] and count_states(group) == "done"


def test_runs_that_start_from_seeds_of_one_method_form_one_group(tmp_path):
    for seed in (0, 1):
        start = make_run(tmp_path / f"first,seed={seed}", {"seed.init": seed})
        fields = {"seed.init": seed, "init_from": str(start), "optim.lr": 0.5}
        make_run(tmp_path / f"second,seed={seed}", fields)
    make_run(tmp_path / "third", {"init_from": "/elsewhere", "optim.lr": 0.5})
    groups = folded(tmp_path)
    assert {name: count for name, (count, _) in groups.items()} == {"first": 2, "second": 2, "third": 1}


def test_runs_without_a_config_are_separate_groups(tmp_path):
    for name in ("a", "b"):
        (make_run(tmp_path / name) / "config.json").write_text("{")
    assert len(folded(tmp_path)) == 2


def test_interval_equals_the_quantile_of_students_t():
    # Three values have mean 2 and standard deviation 1. The quantile of t with 2 degrees of freedom is 4.302653.
    found = spread([1.0, None, 2.0, 3.0])
    assert found.count == 3 and found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert describe(found, 2) == "2.00 ± 2.48"
    assert describe(spread([0.5])) == "0.5000" and describe(spread([None])) == "-" and math.isnan(spread([1.0]).low)
    assert isinstance(found, Spread)
