"""The best evaluation of a run so far, by the score that config.train.best names."""

import math
from collections.abc import Sequence

from errors import UserError
from experiments.metrics.base import Metric
from experiments.metrics.registry import ERRORS
from experiments.run.tables import format_score
from fields import hint_at


def is_smaller_better(name: str) -> bool:
    """Returns whether `name`, val/SCORE or val/loss, is an error or a loss, and no score of which more is better."""
    return name == "val/loss" or name.removeprefix("val/") in ERRORS


class Best:
    """Keeps the best value of one score: the smallest of an error or a loss, the largest of any other.

    A value that is not finite counts as undefined and is never the best. `value` is None before the first defined one.
    """

    def __init__(self, name: str, metrics: Sequence[Metric]):
        """`name` is val/SCORE of one of `metrics`, or val/loss. Raises UserError for any other name."""
        scores = [f"val/{score}" for metric in metrics for score in metric.compute()] + ["val/loss"]
        if name not in scores:
            means = [score for score in scores if "/" not in score.removeprefix("val/")]
            raise UserError(
                f"config.train.best={name!r} is not a score of this evaluation; {hint_at(name, scores)}choose one of "
                f"{', '.join(means)}, or a class's, such as val/IoU/NAME"
            )
        self.name, self.smaller_is_better = name, is_smaller_better(name)
        self.value: float | None = None

    def update(self, value: float | None) -> bool:
        """Take one more value, None or nan where it is undefined. Returns whether it is the best so far."""
        if value is None or not math.isfinite(value):
            return False
        if self.value is not None and (value >= self.value if self.smaller_is_better else value <= self.value):
            return False
        self.value = value
        return True

    def __str__(self) -> str:
        return f"best {self.name} {format_score(self.value)}"
