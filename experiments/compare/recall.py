"""Precision-recall curves of runs that find boxes or masks, from the records of their newest evaluation."""

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
KINDS = {"average_precision": "boxes", "mask_precision": "masks"}  # by the names of their metrics
SCORED = MASK_METRICS.keys() - {"confusion"}


def collect_recall(runs: Sequence[tuple[int, Run]]) -> dict[str, Any]:
    """Return by kind (boxes, masks) the names of the classes, and by a run's number its curves and AP at IoU 0.5.

    `curves` are [C+1,101] as text, the precision that holds from each recall on; the last row is the mean of the classes.
    A class without ground truth is nan. Runs of other classes than the first one's are left out, and so are those without
    records: `problems` of a run say nothing of them, for a run that has not been evaluated yet is not broken.
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
    """Return the precision from each of RECALLS on, 0 beyond the last recall of the curve; nan for no curve."""
    if curve is None:
        return np.full(len(RECALLS), np.nan)
    recalls, precision = curve
    places = np.searchsorted(recalls, RECALLS - 1e-9)
    return np.append(precision, 0.0)[places]
