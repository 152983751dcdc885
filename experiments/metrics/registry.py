"""Metrics by their names in config.eval.metrics. To add one, write its file and add a line here."""

from collections.abc import Callable, Collection

from errors import UserError
from experiments.metrics.average_precision import STYLES, AveragePrecision
from experiments.metrics.base import Metric
from experiments.metrics.boundary import BoundaryIoU
from experiments.metrics.confusion import Confusion
from experiments.metrics.partition import Partition
from fields import hint_at

LABEL_METRICS: dict[str, Callable[[tuple[str, ...]], Metric]] = {
    "confusion": Confusion,
    "boundary": BoundaryIoU,
    "partition": Partition,
}
BOX_METRICS: dict[str, Callable[[tuple[str, ...], tuple[str, ...]], Metric]] = {  # names of one class are one metric
    **dict.fromkeys((*STYLES, "confusion"), AveragePrecision),
}


def make_label_metrics(names: Collection[str], class_names: tuple[str, ...]) -> list[Metric]:
    """Make the empty metrics of label maps. Raises UserError for no name, an unknown one, or one that wants other classes."""
    if not names:
        raise UserError(f"config.eval.metrics=() scores nothing; choose of {', '.join(LABEL_METRICS)}")
    _check(names, LABEL_METRICS, "labels")
    return [LABEL_METRICS[name](class_names) for name in names]


def make_box_metrics(names: Collection[str], class_names: tuple[str, ...]) -> list[Metric]:
    """Make the empty metrics of boxes. Raises UserError for an unknown name, and where none is a score."""
    _check(names, BOX_METRICS, "boxes")
    if set(names) <= {"confusion"}:
        *others, last = STYLES
        raise UserError(
            f"config.eval.metrics={tuple(names)} gives boxes no score; name one of {', '.join(others)} and {last} at "
            "least, in addition to confusion"
        )
    kinds = dict.fromkeys(BOX_METRICS[name] for name in names)
    return [kind(class_names, tuple(name for name in names if BOX_METRICS[name] is kind)) for kind in kinds]


def _check(names: Collection[str], known: Collection[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"config.eval.metrics: {name!r} does not score {kind}; {hint_at(name, known)}choose of {', '.join(known)}"
            )
