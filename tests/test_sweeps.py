"""The functions of configs/sweeps.py, which make the lists of runs of a sweep()."""

import math

import pytest

from configs import sweeps
from errors import UserError


def test_a_grid_and_a_product_have_all_combinations():
    grid = sweeps.grid({"optim.lr": (0.1, 0.2), "model.width": [1, 2, 3]})
    assert len(grid) == 6 and grid[1] == {"optim.lr": 0.1, "model.width": 2}
    runs = sweeps.product([*grid, {"optim.name": "sgd"}], sweeps.seeds(2, first=5))
    assert len(runs) == 14 and runs[-1] == {"optim.name": "sgd", "seed.init": 6}


def test_draws_are_repeatable_and_a_sweep_can_grow():
    space = {"optim.lr": sweeps.log_uniform(1e-4, 1e-1), "optim.ema": sweeps.uniform(0.5, 0.9)}
    few, many = sweeps.draw(5, space), sweeps.draw(50, space | {"model.depth": sweeps.integers(1, 3)})
    assert few == sweeps.draw(5, space) and few != sweeps.draw(5, space, seed=1)
    assert [{field: run[field] for field in space} for run in many[:5]] == few


def test_no_two_draws_are_equal():
    runs = sweeps.draw(9, {"a": sweeps.integers(1, 3), "b": sweeps.choice(["x", "y", "z"])})
    assert len({(run["a"], run["b"]) for run in runs}) == 9
    assert sweeps.draw(4, {"a": sweeps.integers(1, 3), "b": sweeps.choice(["x", "y", "z"])}) == runs[:4]
    with pytest.raises(UserError, match="a, b.*9 runs, not 10"):
        sweeps.draw(10, {"a": sweeps.integers(1, 3), "b": sweeps.choice(["x", "y", "z"])})


def test_draws_have_their_distribution():
    space = {
        "log": sweeps.log_uniform(1e-4, 1),
        "even": sweeps.uniform(-1, 3),
        "whole": sweeps.integers(2, 4),
        "one": sweeps.choice(["a", "b"]),
    }
    runs = sweeps.draw(4000, space)
    assert sum(run["log"] < 1e-2 for run in runs) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum(run["even"] for run in runs) / 4000 == pytest.approx(1, abs=0.06)
    for value in (2, 3, 4):
        assert sum(run["whole"] == value for run in runs) / 4000 == pytest.approx(1 / 3, abs=0.03)
    assert sum(run["one"] == "a" for run in runs) / 4000 == pytest.approx(0.5, abs=0.03)
    assert all(type(run["whole"]) is int and 1e-4 <= run["log"] <= 1 and -1 <= run["even"] <= 3 for run in runs)
    assert all(float(f"{run['log']:.4g}") == run["log"] for run in runs), "as many digits as people write"


@pytest.mark.parametrize("share", [0.0, math.nextafter(1, 0)])
def test_a_span_includes_its_ends(share):
    assert sweeps.integers(1, 4).place(share) == (4 if share else 1)
    assert sweeps.log_uniform(0.2, 0.7).place(share) == (0.7 if share else 0.2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sweeps.grid({"optim.lr": 0.1}), ["optim.lr", "0.1", "list"]),
        (lambda: sweeps.grid({"optim.name": "sgd"}), ["optim.name", "sgd"]),
        (lambda: sweeps.product(sweeps.seeds(1), [{"seed.init": 3}]), ["seed.init", "two lists"]),
        (lambda: sweeps.draw(1, {"optim.lr": [0.1]}), ["optim.lr", "log_uniform"]),
        (lambda: sweeps.log_uniform(0, 1), ["above 0"]),
        (lambda: sweeps.integers(3, 2), ["integers(3, 2)"]),
    ],
)
def test_a_wrong_definition_is_one_line(make, words):
    with pytest.raises(UserError) as caught:
        make()
    assert all(word in str(caught.value) for word in words)
