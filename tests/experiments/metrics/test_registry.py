"""Invalid names of metrics raise a one-line error, and each metric names the scores that are errors."""

import pytest

from errors import UserError
from experiments.metrics.registry import (
    BOX_METRICS,
    LABEL_METRICS,
    MASK_METRICS,
    make_box_metrics,
    make_label_metrics,
    make_mask_metrics,
)

NAMES = ("membrane", "cell")


@pytest.mark.parametrize(
    ("make", "names", "said"),
    [
        (
            make_label_metrics,
            (),
            r"config.eval.metrics=\(\) scores nothing; choose from confusion, boundary, partition",
        ),
        (
            make_label_metrics,
            ("confusion", "coco"),
            "config.eval.metrics: 'coco' does not score labels; choose from confusion",
        ),
        (make_box_metrics, (), r"config.eval.metrics=\(\) .* at least one of coco, voc07 and voc12"),
        (
            make_box_metrics,
            ("confusion",),
            "'confusion'.* add at least one of coco, voc07 and voc12",
        ),
        (make_box_metrics, ("coco", "boundary"), "metrics: 'boundary' .* choose from coco, voc07, voc12, confusion"),
        (
            make_box_metrics,
            ("coco", "coco_masks"),
            "metrics: 'coco_masks' scores masks, and this task predicts boxes alone; choose from coco, voc07, voc12, conf",
        ),
        (make_mask_metrics, ("confusion",), "gives masks no score; add at least one of coco, .* and coco_boundaries"),
        (make_mask_metrics, ("coco_mask",), "'coco_mask' does not score masks; .*coco_masks.*choose from coco"),
    ],
)
def test_invalid_metrics_raise_a_one_line_error(make, names, said):
    with pytest.raises(UserError, match=said) as caught:
        make(names, NAMES)
    assert "\n" not in str(caught.value)


def test_all_box_styles_share_one_metric():
    (metric,) = make_box_metrics(("coco", "voc12", "confusion"), NAMES)
    assert metric.name == "average_precision" and metric.styles == ("coco", "voc12", "confusion")


def test_names_are_unique_and_only_errors_are_better_if_smaller():
    for make, names in (
        (make_label_metrics, LABEL_METRICS),
        (make_box_metrics, BOX_METRICS),
        (make_mask_metrics, MASK_METRICS),
    ):
        metrics = make(tuple(names), NAMES)
        assert len({metric.name for metric in metrics}) == len(metrics)
        for metric in metrics:
            assert metric.smaller_is_better <= metric.compute().keys()
            assert metric.smaller_is_better == {name for name in metric.compute() if "error" in name}
