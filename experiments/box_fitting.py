"""Default boxes or anchors that match more of the training objects, as flags to paste."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
from ml_collections import ConfigDict

from experiments.run import state as states
from experiments.tasks.dense import Detection, Geometry
from input_pipeline.batch import Size

SAMPLE = 300  # evenly spread objects on which candidates are compared; the chosen one is checked on all
# Shares of the objects, the smallest ones, that a fit ignores: where the finest map is too coarse for them, no box helps.
LEFT = (0.0, 0.15, 0.3, 0.45, 0.6)
EMPHASIS = 3.0  # factor of the weight of an object that the first fit missed


class Detector(Protocol):
    """A model with anchors or cells."""

    def geometry(self, size: Size, **fields: Any) -> Geometry:
        """Return the anchors or cells for an input of `size`, with `fields` in place of those of the model."""
        ...


def fit_boxes(
    config: ConfigDict, task: Detection, num_classes: int, boxes: np.ndarray, enough: float
) -> dict[str, Any] | None:
    """Return the `fields` of config.model that fit boxes [N,4] in pixels of the input, and the share `matchable` with them.

    The fields are the first and simplest that match the share `enough`, else those that match most. Return None if the
    model has no such fields, and if the split has no objects.
    """
    size = tuple(config.data.image_size)
    if not len(boxes):
        return None
    model = make_blueprint(config, num_classes)
    sample = boxes[np.linspace(0, len(boxes) - 1, min(SAMPLE, len(boxes))).round().astype(int)]
    fields = _search(task, model, sample, size, enough)
    if fields is None:
        return None
    fitted = config.copy_and_resolve_references()
    fitted.model.update(fields)
    placed = make_blueprint(fitted, num_classes).geometry(size)
    return {"fields": fields, "matchable": float(task.matchable(placed, boxes, size).mean())}


def make_blueprint(config: ConfigDict, num_classes: int) -> Detector:
    """Return a detector without values, whose geometry depends on its fields alone."""
    return cast(Detector, states.blueprint(config, num_classes))


def _search(task: Detection, model: Detector, boxes: np.ndarray, size: Size, enough: float) -> dict[str, Any] | None:
    """Return the first fields that match enough of the boxes, else the best ones, None if there are none."""
    best, most = None, -1.0
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    for left in LEFT:
        weights = (areas >= np.quantile(areas, left)).astype(float)
        for _ in range(2):
            missed = None
            for fields in task.propose_fields(model, boxes, weights, size):
                matched = task.matchable(model.geometry(size, **fields), boxes, size)
                if matched.mean() > most:
                    best, most, missed = fields, matched.mean(), ~matched
                if most >= enough:
                    return best
            if missed is None:
                break
            weights = np.where(missed, weights * EMPHASIS, weights)
    return best


def write_flags(fields: Mapping[str, Any]) -> str:
    """Return fields of config.model as flags of the command line."""
    values = {name: str(value).replace(" ", "") for name, value in fields.items()}
    quoted = {name: f"'{value}'" if "(" in value else value for name, value in values.items()}
    return " ".join(f"--config.model.{name}={value}" for name, value in quoted.items())
