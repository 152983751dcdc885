"""Default boxes or anchors of a detector that more of the training objects can be matched with, as flags to paste."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from experiments.run import state as states
from experiments.tasks.dense import Detection, Geometry
from input_pipeline.batch import Size

SAMPLE = 300  # objects that candidates are compared on, spread evenly; what is chosen is checked on all
# Of the objects, the smallest, which are left to themselves: where the finest map is too coarse for them, no box helps.
LEFT = (0.0, 0.15, 0.3, 0.45, 0.6)
EMPHASIS = 3.0  # of an object that was missed, in a second look


def fit_boxes(
    config: ConfigDict, task: Detection, num_classes: int, boxes: np.ndarray, enough: float
) -> dict[str, Any] | None:
    """Returns the `fields` of config.model that fit boxes [N,4], pixels of the input, and the share `matchable` with them.

    The first and simplest that match the share `enough` are taken; if none do, those that match most. Returns None where the
    model has no such fields, or where the split has no objects.
    """
    size = tuple(config.data.image_size)
    if not len(boxes):
        return None
    model = states.blueprint(config, num_classes)
    sample = boxes[np.linspace(0, len(boxes) - 1, min(SAMPLE, len(boxes))).round().astype(int)]
    fields = _search(task, model, sample, size, enough)
    if fields is None:
        return None
    fitted = config.copy_and_resolve_references()
    fitted.model.update(fields)
    placed = states.blueprint(fitted, num_classes).geometry(size)
    return {"fields": fields, "matchable": float(task.matchable(placed, boxes, size).mean())}


def _search(task: Detection, model: nnx.Module, boxes: np.ndarray, size: Size, enough: float) -> dict[str, Any] | None:
    """The best fields for the boxes, or the first that match enough of them; None without any."""
    best, most = None, -1.0
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    for left in LEFT:
        weights = (areas >= np.quantile(areas, left)).astype(float)
        for _ in range(2):
            missed = None
            for fields in task.propose_fields(model, boxes, weights, size):
                matched = task.matchable(_place(model, fields, size), boxes, size)
                if matched.mean() > most:
                    best, most, missed = fields, matched.mean(), ~matched
                if most >= enough:
                    return best
            if missed is None:
                break
            weights = np.where(missed, weights * EMPHASIS, weights)
    return best


def _place(model: nnx.Module, fields: Mapping[str, Any], size: Size) -> Geometry:
    """The geometry of a blueprint with other values of some fields; making it anew would take a second each time."""
    own = {name: getattr(model, name) for name in fields}
    try:
        for name, value in fields.items():
            setattr(model, name, value)
        return model.geometry(size)
    finally:
        for name, value in own.items():
            setattr(model, name, value)


def write_flags(fields: Mapping[str, Any]) -> str:
    """Returns fields of config.model as flags of the command line."""
    values = {name: str(value).replace(" ", "") for name, value in fields.items()}
    quoted = {name: f"'{value}'" if "(" in value else value for name, value in values.items()}
    return " ".join(f"--config.model.{name}={value}" for name, value in quoted.items())
