"""What an evaluation asks of a metric."""

from typing import Any, Protocol

import numpy as np

Example = dict[str, np.ndarray]  # an image with its ground truth, on the host
Prediction = dict[str, np.ndarray]  # what was predicted for one image, at its own size


class Metric(Protocol):
    """Scores of a split from one part of a record an image. It keeps counts, or where scores rank all (AP) the parts."""

    def measure(self, prediction: Prediction, truth: Example) -> dict[str, Any]:
        """One image's counts, fit for JSON: this metric's part of the image's row in records/."""

    def add(self, row: dict[str, Any]) -> None:
        """Counts a row in that `measure` made, here, in another process or in an earlier run, with its `image_id`."""

    def compute(self) -> dict[str, float]:
        """The scores by name, nan where nothing was counted."""

    def pictures(self) -> dict[str, np.ndarray]:
        """What is better seen than read: [H,W,3] uint8 by name."""
