"""The best evaluation of a run so far, by the score that config.train.best names."""

import math
from collections.abc import Sequence

from errors import UserError
from experiments.metrics.base import Metric
from experiments.metrics.registry import ERRORS
from experiments.run.tables import format_score
from fields import hint_at


def is_smaller_better(name: str) -> bool:
    """Return whether a smaller value of `name`, val/SCORE or val/loss, is better."""
    return name == "val/loss" or name.removeprefix("val/") in ERRORS


class Best:
    """The best value of one score so far, the smallest for an error or a loss and the largest otherwise.

    A value that is not finite counts as undefined and is never the best. `value` is None until one is defined.
    """

    def __init__(self, name: str, metrics: Sequence[Metric]):
        """Take the score's name, which is val/loss or val/SCORE of one of `metrics`.

        Raises UserError for any other name.
        """
        scores = [f"val/{score}" for metric in metrics for score in metric.compute()] + ["val/loss"]
        if name not in scores:
            means = [score for score in scores if "/" not in score.removeprefix("val/")]
            raise UserError(
                f"config.train.best={name!r} is not a score of this evaluation; {hint_at(name, scores)}choose one of "
                f"{', '.join(means)}, or a per-class score, such as val/IoU/NAME"
            )
        self.name, self.smaller_is_better = name, is_smaller_better(name)
        self.value: float | None = None

    def update(self, value: float | None) -> bool:
        """Add a value, None or nan if it is undefined, and return whether it is the best so far."""
        if value is None or not math.isfinite(value):
            return False
        if self.value is not None and (value >= self.value if self.smaller_is_better else value <= self.value):
            return False
        self.value = value
        return True

    def __str__(self) -> str:
        return f"best {self.name} {format_score(self.value)}"
