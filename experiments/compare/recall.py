"""Precision-recall curves of runs that predict boxes or masks, from the records of their newest evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from errors import UserError
from experiments.compare.curves import encode
from experiments.compare.records import read_records
from experiments.compare.runs import Run
from experiments.metrics.average_precision import AveragePrecision
from experiments.metrics.precision import Scores
from experiments.metrics.registry import MASK_METRICS

RECALLS = np.linspace(0, 1, 101)
KINDS = {"average_precision": "boxes", "mask_precision": "masks"}  # by metric name
SCORED = MASK_METRICS.keys() - {"confusion"}


def collect_recall(runs: Sequence[tuple[int, Run]]) -> dict[str, Any]:
    """Return the class names by kind (boxes, masks), with each run's curves and AP at IoU 0.5 by run number.

    `curves` are [C+1,101] as text, the precision from each recall on. The last row is the mean over classes. A class without
    ground truth is nan. Runs whose classes differ from the first run's are left out. So are runs without records, which is not
    among the `problems` of a run, because it may not have been evaluated yet.
    """
    kinds: dict[str, Any] = {}
    for number, run in runs:
        if not SCORED & set(run.field("eval.metrics") or ()):
            continue
        try:
            records = read_records(run)
            metrics = [metric for metric in records.metrics if isinstance(metric, AveragePrecision)]
            for metric in metrics:
                records.fill(metric)
        except UserError:
            continue
        for metric in metrics:
            kind = kinds.setdefault(KINDS[metric.name], {"classes": list(metric.class_names), "runs": {}})
            if kind["classes"] == list(metric.class_names):
                kind["runs"][number] = _describe(metric.trace())
    return kinds


def _describe(scores: Scores) -> dict[str, Any]:
    curves = np.array([sample(curve) for curve in scores.curves])
    averages = np.array([own["AP"] for own in scores.classes])
    present = ~np.isnan(averages)
    mean, average = (own[present].mean(0) if present.any() else own[0] for own in (curves, averages))
    return {
        "curves": encode(np.concatenate([curves, mean[None]]), "<f4"),
        "scores": [*averages.tolist(), float(average)],
    }


def sample(curve: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Return the precision from each of RECALLS on, 0 beyond the last recall of the curve, and nan without a curve."""
    if curve is None:
        return np.full(len(RECALLS), np.nan)
    recalls, precision = curve
    places = np.searchsorted(recalls, RECALLS - 1e-9)
    return np.append(precision, 0.0)[places]
