"""The scores of a model on a split. Every image counts exactly once, for any batch size and number of devices."""

import csv
import dataclasses
import io
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.metrics.base import Example, Metric, Prediction
from experiments.pictures.examples import LONGER_SIDE, DrawnExample, DrawnExamples, encode_webp, write_examples
from experiments.pictures.png import write_png
from experiments.results.base import Results
from experiments.run import sharding
from experiments.run.inference import Inference
from experiments.run.out_of_memory import explain_evaluation
from experiments.run.state import Architecture, Variables
from experiments.run.tables import tabulate_classes
from experiments.tasks.base import Mean, Means, Task
from files import write_atomically
from input_pipeline.sources import Source
from wording import make_cell

IN_MEMORY = 2**24  # bytes of records that stay in memory; more go to a temporary file


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    `scores` by name, `records` with one line of JSON per image, the number of `images`, and `pictures` by name, [H,W,3] uint8.
    The picture `examples` shows predictions next to the ground truth; the others are drawn by the metrics. `drawn` holds the
    same examples one by one.
    """

    scores: dict[str, float]
    records: IO[bytes]
    images: int
    pictures: dict[str, np.ndarray]
    drawn: DrawnExamples


class Evaluator:
    """The evaluation of one model on one split, each image once, at its own size. The variables may change."""

    def __init__(
        self,
        config: ConfigDict,
        task: Task,
        results: Results,
        architecture: Architecture,
        source: Source,
        mesh: Mesh,
    ):
        self.config, self.results, self.source = config, results, source
        self.inference = Inference(config, task, results, architecture, mesh)

    def __call__(self, variables: Variables, stop: Callable[[], bool] = lambda: False) -> Evaluation:
        """Evaluate `variables`. Only the counts of the metrics and the records of all processes grow with the split.

        Raises Interrupted as soon as `stop()` is true.
        """
        metrics, count = self.results.metrics(), len(self.source)
        # Chosen by index: the same images each time, regardless of the order of the canvases.
        drawn = set(np.linspace(0, count - 1, min(self.config.eval.pictures, count)).round().astype(int).tolist())
        records = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the caller reads and closes it
        shown: dict[int, tuple] = {}
        for index, example, prediction in self._predict(variables, stop):
            row = {"image_id": index, "name": self.source.name(index), "source_id": self.source.image_id(index)}
            for metric in metrics:
                row[metric.name] = metric.measure(prediction, example)
                metric.add(row[metric.name], index)
            records.write(json.dumps(row).encode() + b"\n")
            if index in drawn:
                shown[index] = example, {name: prediction[name] for name in self.results.shown}
        if jax.process_count() > 1:
            metrics = self.results.metrics()
            _merge(metrics, records)
        scores = reduce_means(self.inference.terms, self.inference.logs)
        pictures = {"examples": self.results.picture(*zip(*shown.values(), strict=True))} if shown else {}
        for metric in metrics:
            scores |= metric.compute()
            pictures |= metric.pictures()
        return Evaluation(scores, records, count, pictures, self._draw(shown))

    def _predict(self, variables: Variables, stop: Callable[[], bool]) -> Iterator[tuple[int, Example, Prediction]]:
        with explain_evaluation(self.config, lambda: self.inference.programs):
            yield from self.inference(variables, self.source, stop)

    def _draw(self, shown: Mapping[int, tuple[Example, Prediction]]) -> DrawnExamples:
        drawn = []
        for index in sorted(shown):
            tiles = self.results.tiles(*shown[index], LONGER_SIDE)
            encoded = {name: encode_webp(tile) for name, tile in tiles.items()}
            drawn.append(DrawnExample(index, self.source.name(index), encoded))
        return DrawnExamples(self.source.class_names, drawn)


def _merge(metrics: list[Metric], records: IO[bytes]) -> None:
    """Gather the rows of all processes into `records` and the empty `metrics`, in the same order in every process.

    Sums of floats, and decisions that depend on them, are then the same in all processes.
    """
    records.seek(0)
    texts = sharding.gather_text(records.read().decode())
    records.seek(0)
    for text in texts:
        records.write(text.encode())
        for row in map(json.loads, text.splitlines()):
            for metric in metrics:
                metric.add(row[metric.name], row["image_id"])


def reduce_means(terms: Means, logs: Means) -> dict[str, float]:
    """Return `loss`, each term without its factor, and the logged scalars. A value is nan where its weight is 0.

    A term whose weight is 0 adds nothing to the loss of the others.
    """
    scalars = {name: _quotient(mean) for name, mean in (terms | logs).items()}
    counted = [term.factor * scalars[name] for name, term in terms.items() if max(term.weight, term.floor) > 0]
    return {"loss": sum(counted) if counted else float("nan")} | scalars


def _quotient(mean: Mean) -> float:
    divisor = max(mean.weight, mean.floor)
    return float(mean.total / divisor) if divisor else float("nan")


def write_result(workdir: pathlib.Path, name: str, result: Evaluation, records: str) -> dict[str, str]:
    """Write records/RECORDS.jsonl, and the per-class table and the pictures as predictions/NAME-*. Returns their places.

    predictions/RECORDS-examples.zip replaces the file of an earlier evaluation.
    """
    result.records.seek(0)
    write_atomically(workdir / "records" / f"{records}.jsonl", result.records)
    places = {}
    classes = tabulate_classes(result.scores)
    if classes:
        places["classes"] = f"predictions/{name}-classes.csv"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([map(make_cell, row) for row in classes])
        write_atomically(workdir / places["classes"], text.getvalue().encode())
    for kind, picture in result.pictures.items():
        places[kind] = f"predictions/{name}-{kind}.png"
        write_png(workdir / places[kind], picture)
    write_examples(workdir / "predictions" / f"{records}-examples.zip", result.drawn)
    return places
