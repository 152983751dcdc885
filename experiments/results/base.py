"""The host half of a task, which merges views, scores, draws and writes files. It has no device code."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from experiments.metrics.base import Example, Metric, Prediction


class Assembly(Protocol):
    """Merges the predictions for the views of one image, at the image's own size."""

    def add(self, prediction: Prediction, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """Add a view. `matrix` [3,3] maps points (x, y) of the image to points of its `canvas` (height, width)."""
        ...

    def result(self) -> Prediction:
        """Return the merged prediction of the views. Call this once, after the last view."""
        ...


class Writer(Protocol):
    """Writes predictions as files."""

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Prediction) -> list[Path]:
        """Write the prediction for the image in `path` to files whose names begin with `name`. Return the files."""
        ...

    def close(self) -> list[Path]:
        """Write the files that cover all images. Return the files."""
        ...


class Results(Protocol):
    """The host half of a task, chosen by the task's `needs`. Its fields are those of config.eval."""

    shown: tuple[str, ...]  # the keys of a prediction that are drawn; an evaluation keeps no others

    def assembly(self, size: tuple[int, int], matrices: Sequence[np.ndarray] = ()) -> Assembly:
        """Make an empty assembly for an image of `size` (height, width), with the `matrices` of all its views if known."""
        ...

    def metrics(self) -> list[Metric]:
        """Make the metrics, without any image."""
        ...

    def picture(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> np.ndarray:
        """Draw predictions next to the ground truth, [H,W,3] uint8."""
        ...

    def tiles(self, example: Example, prediction: Prediction, longer: int) -> dict[str, np.ndarray]:
        """Draw one example. Return pictures [H,W,3] uint8 by name, with a longer side of about `longer` pixels.

        The names are `truth`, `prediction` and, where these hide the image, `image`.
        """
        ...

    def sheet(self, examples: Iterable[Example], captions: Sequence[str]) -> np.ndarray:
        """Draw examples of any sizes with their ground truth and captions, [H,W,3] uint8. Hold one at a time."""
        ...

    def writer(
        self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int], image_ids: Sequence[int]
    ) -> Writer:
        """Make a writer to `folder` for the images in `paths`.

        `category_ids` and `image_ids` are the data's own numbers of the classes and of the images, () if it has none.
        """
        ...
