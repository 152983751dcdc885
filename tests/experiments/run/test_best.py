"""The best evaluation, with the better direction of each score and undefined scores."""

import math

import pytest

from configs import common
from errors import UserError
from experiments.results.registry import make_results
from experiments.run.best import Best, is_smaller_better


def make(name):
    evaluation = common.get_config().eval
    evaluation.metrics = ("partition",)
    return Best(name, make_results(("label",), evaluation, ("membrane", "cell")).metrics())


@pytest.mark.parametrize("name", ["val/miou", "Rand", "train/loss", ""])
def test_an_unknown_score_is_reported_in_one_line(name):
    with pytest.raises(UserError, match=r"config.train.best=.* choose one of val/Rand, .*, val/loss") as caught:
        make(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "improving"),
    [("val/Rand", (0.2, 0.3, 0.9)), ("val/pixel_error", (0.9, 0.3, 0.2)), ("val/loss", (3.0, 0.5, -2.0))],
)
def test_errors_and_losses_are_better_when_smaller(name, improving):
    best = make(name)
    assert [best.update(value) for value in improving] == [True] * 3
    assert [best.update(value) for value in improving] == [False] * 3  # neither a worse value nor the same value again
    assert best.value == improving[-1] and str(best) == f"best {name} {improving[-1]:.4f}"


def test_a_launcher_knows_the_direction_without_an_evaluation():
    assert all(map(is_smaller_better, ["val/loss", "val/pixel_error"]))
    assert not any(map(is_smaller_better, ["val/mIoU", "val/AP50", "val/IoU/pixel_error", "val/Rand"]))


@pytest.mark.parametrize("name", ["val/Rand", "val/loss"])
def test_an_undefined_score_is_never_the_best(name):
    best = make(name)
    assert not any(best.update(value) for value in (math.nan, None, math.inf, -math.inf))
    assert str(best) == f"best {name} -"
    assert best.update(0.0) and not best.update(math.nan) and best.value == 0.0
