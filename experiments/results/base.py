"""What the host makes of predictions: one image's views put together, scores, pictures and files. No device code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from experiments.metrics.base import Example, Metric, Prediction


class Assembly(Protocol):
    """Puts what was predicted for the views of one image together again, at the image's own size."""

    def add(self, prediction: Prediction, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """`matrix` [3,3] maps the image's points to those of the view's canvas of that (height, width)."""

    def result(self) -> Prediction: ...


class Writer(Protocol):
    """The files that predictions become."""

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Prediction) -> list[Path]:
        """Writes what was predicted for the image in `path`, to files named after `name`; returns those."""

    def close(self) -> list[Path]:
        """Writes what is of all images together; returns the files."""


class Results(Protocol):
    """The host half of a task, chosen by what the task needs. Its fields are those of config.eval."""

    shown: tuple[str, ...]  # the keys of a prediction that `picture` draws: an evaluation keeps no others

    def assembly(self, size: tuple[int, int]) -> Assembly:
        """An empty one for an image of `size` (height, width)."""

    def metrics(self) -> list[Metric]:
        """Empty ones."""

    def picture(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> np.ndarray:
        """Predictions beside the ground truth, [H,W,3] uint8."""

    def writer(self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int]) -> Writer:
        """Writes predictions for the images in `paths` to `folder`. `category_ids` are the data's own numbers of the classes."""
