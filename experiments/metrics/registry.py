"""The metrics by their names in config.eval.metrics. To add one, write its file and add a line here."""

from collections.abc import Callable, Collection, Mapping

from errors import UserError
from experiments.metrics import precision
from experiments.metrics.average_precision import STYLES, AveragePrecision
from experiments.metrics.base import Metric
from experiments.metrics.boundary import BoundaryIoU
from experiments.metrics.confusion import Confusion
from experiments.metrics.mask_precision import MASK_STYLES, MaskPrecision
from experiments.metrics.partition import Partition
from fields import hint_at

LABEL_METRICS: dict[str, Callable[[tuple[str, ...]], Metric]] = {
    "confusion": Confusion,
    "boundary": BoundaryIoU,
    "partition": Partition,
}
# Names with the same class make one metric.
BOX_METRICS: dict[str, type[AveragePrecision]] = dict.fromkeys((*STYLES, "confusion"), AveragePrecision)
MASK_METRICS = BOX_METRICS | dict.fromkeys(MASK_STYLES, MaskPrecision)
ERRORS = frozenset().union(*(kind.smaller_is_better for kind in {*LABEL_METRICS.values(), *MASK_METRICS.values()}))


def make_label_metrics(names: Collection[str], class_names: tuple[str, ...]) -> list[Metric]:
    """Make empty metrics of label maps.

    Raises UserError without a name, for an unknown one, and for a metric that does not support the classes.
    """
    if not names:
        raise UserError(f"config.eval.metrics=() scores nothing; choose from {', '.join(LABEL_METRICS)}")
    _check(names, LABEL_METRICS, "labels")
    return [LABEL_METRICS[name](class_names) for name in names]


def make_box_metrics(names: Collection[str], class_names: tuple[str, ...], most: int = precision.MOST) -> list[Metric]:
    """Make empty metrics of boxes. COCO's use the `most` best detections of a class in an image.

    Raises UserError for an unknown name, and if no name is a score.
    """
    for name in names:
        if name in MASK_STYLES:
            raise UserError(
                f"config.eval.metrics: {name!r} scores masks, and this task predicts boxes alone; choose from "
                f"{', '.join(BOX_METRICS)}"
            )
    return _make_styled(names, class_names, most, BOX_METRICS, "boxes")


def make_mask_metrics(names: Collection[str], class_names: tuple[str, ...], most: int = precision.MOST) -> list[Metric]:
    """Make empty metrics of masks and their boxes, otherwise like `make_box_metrics`."""
    return _make_styled(names, class_names, most, MASK_METRICS, "masks")


def _make_styled(
    names: Collection[str],
    class_names: tuple[str, ...],
    most: int,
    known: Mapping[str, type[AveragePrecision]],
    kind: str,
) -> list[Metric]:
    """Make one metric for each class in `known` that has one of `names`, with these names as its styles."""
    _check(names, known, kind)
    if set(names) <= {"confusion"}:
        *others, last = (name for name in known if name != "confusion")
        raise UserError(
            f"config.eval.metrics={tuple(names)} gives {kind} no score; add at least one of {', '.join(others)} and {last}"
        )
    kinds = dict.fromkeys(known[name] for name in names)
    return [made(class_names, tuple(name for name in names if known[name] is made), most) for made in kinds]


def _check(names: Collection[str], known: Collection[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"config.eval.metrics: {name!r} does not score {kind}; {hint_at(name, known)}choose from {', '.join(known)}"
            )
