"""The host half of a task: views of an image put together, scores, pictures and files. No device code."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from experiments.metrics.base import Example, Metric, Prediction


class Assembly(Protocol):
    """Puts what was predicted for the views of one image together again, at the image's own size."""

    def add(self, prediction: Prediction, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """Add a view. `matrix` [3,3] maps points (x, y) of the image to those of its `canvas` (height, width)."""

    def result(self) -> Prediction:
        """Return the merged prediction of the views. Call it once, after the last view."""


class Writer(Protocol):
    """Writes predictions as files."""

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Prediction) -> list[Path]:
        """Write what was predicted for the image in `path`, to files named after `name`. Returns the files."""

    def close(self) -> list[Path]:
        """Write the files that cover all images. Returns the files."""


class Results(Protocol):
    """The host half of a task, chosen by what the task needs. Its fields are those of config.eval."""

    shown: tuple[str, ...]  # the keys of a prediction that are drawn: an evaluation keeps no others

    def assembly(self, size: tuple[int, int], matrices: Sequence[np.ndarray] = ()) -> Assembly:
        """Make an empty one for an image of `size` (height, width). `matrices` are those of all its views, if they are known."""

    def metrics(self) -> list[Metric]:
        """Make empty ones."""

    def picture(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> np.ndarray:
        """Draw predictions next to the ground truth, [H,W,3] uint8."""

    def tiles(self, example: Example, prediction: Prediction, longer: int) -> dict[str, np.ndarray]:
        """Draw one example: [H,W,3] uint8, whose longer side has about `longer` pixels, by name.

        `truth` and `prediction` show the image too, or else `image` does.
        """

    def sheet(self, examples: Iterable[Example], captions: Sequence[str]) -> np.ndarray:
        """Draw examples of any sizes with their ground truth, and their captions, [H,W,3] uint8; holds one at a time."""

    def writer(
        self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int], image_ids: Sequence[int]
    ) -> Writer:
        """Make a writer to `folder` for the images in `paths`.

        `category_ids` are the data's own numbers of the classes, `image_ids` those of the images, () where they have none.
        """
