"""What the loop asks of a task, and nothing more: the loop never learns what the model is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

Arrays = dict[str, jax.Array]
Rows = dict[str, np.ndarray]  # on the host, of one image: an example, or what was predicted for it
Sum = tuple[
    jax.Array, jax.Array
]  # a sum and the weight it is to be divided by, so that parts of a batch add up exactly


class Metric(Protocol):
    """Scores of a split from one row an image. What it keeps is counts, or where scores rank all (AP) the rows."""

    def measure(self, prediction: Rows, truth: Rows) -> dict[str, Any]:
        """One image's counts, fit for JSON: this metric's part of the image's row in records/."""

    def add(self, row: dict[str, Any]) -> None:
        """Counts a row in that `measure` made, here, in another process or in an earlier run, with its `image_id`."""

    def compute(self) -> dict[str, float]:
        """The scores by name, nan where nothing was counted."""

    def pictures(self) -> dict[str, np.ndarray]:
        """What is better seen than read: [H,W,3] uint8 by name."""


class Assembly(Protocol):
    """Puts what was predicted for the views of one image together again, at the image's own size."""

    def add(self, prediction: Rows, canvas: tuple[int, int], matrix: np.ndarray) -> None:
        """`matrix` [3,3] maps the image's points to those of the view's canvas of that (height, width)."""

    def result(self) -> Rows: ...


class Output(Protocol):
    """The files that predictions become."""

    def add(self, path: Path, name: str, image: np.ndarray, prediction: Rows) -> list[Path]:
        """Writes what was predicted for the image in `path`, to files named after `name`; returns those."""

    def close(self) -> list[Path]:
        """Writes what is of all images together; returns the files."""


class Task(Protocol):
    """Turns raw outputs into a loss and predictions, on the device, and predictions into scores and files, on the host.

    Everything with a `model` is traced into the step.
    """

    def loss(self, model: nnx.Module, batch: Arrays, train: bool, rngs: nnx.Rngs | None) -> tuple[Sum, dict[str, Sum]]:
        """((sum, weight) of the loss, the same of each part worth logging)."""

    def predict(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """Arrays of fixed shape, the batch along axis 0."""

    def assembly(self, size: tuple[int, int]) -> Assembly:
        """An empty one for an image of `size` (height, width)."""

    def metrics(self) -> list[Metric]:
        """Empty ones."""

    def drawable(self, prediction: Rows) -> Rows:
        """The part of a prediction that `draw` needs."""

    def draw(self, examples: Sequence[Rows], predictions: Sequence[Rows]) -> np.ndarray:
        """A picture [H,W,3] uint8 of predictions beside the truth."""

    def output(self, folder: Path, paths: Sequence[Path], category_ids: Sequence[int]) -> Output:
        """Where predictions for the images in `paths` are written. `category_ids` are the data's own numbers of the classes."""
