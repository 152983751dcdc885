"""Scores a model on a split: every image counts exactly once, whatever the batch size and the number of devices."""

import csv
import dataclasses
import io
import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import IO

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments import pictures
from experiments.metrics.base import Metric
from experiments.results.base import Results
from experiments.run import sharding
from experiments.run.inference import Inference
from experiments.run.state import Architecture, Variables
from experiments.tasks.base import Mean, Means, Task
from files import write_atomically
from input_pipeline.sources import Source

IN_MEMORY = 2**24  # bytes of records; more of them go to a temporary file


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """`scores` by name, `records` (a JSON object a line, an image each), `images` that they are of, and `pictures`.

    `pictures` are [H,W,3] uint8 by name: `examples` beside their truth, and what the metrics draw.
    """

    scores: dict[str, float]
    records: IO[bytes]
    images: int
    pictures: dict[str, np.ndarray]


class Evaluator:
    """Evaluates any variables of one model on one split, each image once, at its own size."""

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
        """What it holds of the images are a metric's counts, and the records where processes exchange them.

        Raises Interrupted as soon as `stop()` is true.
        """
        metrics, count = self.results.metrics(), len(self.source)
        # By index, so that they are the same images each time, in whatever order the canvases bring them.
        drawn = set(np.linspace(0, count - 1, min(self.config.eval.pictures, count)).round().astype(int).tolist())
        records = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the caller reads and drops it
        shown: list[tuple] = []
        for index, example, prediction in self.inference(variables, self.source, stop):
            row = {"image_id": index, "name": self.source.name(index), "source_id": self.source.image_id(index)}
            for metric in metrics:
                row |= metric.measure(prediction, example)
            for metric in metrics:
                metric.add(row)
            records.write(json.dumps(row).encode() + b"\n")
            if index in drawn:
                shown.append((example, {name: prediction[name] for name in self.results.shown}))
        if jax.process_count() > 1:
            metrics = self.results.metrics()
            _merge(metrics, records)
        scores = _scalars(self.inference.terms, self.inference.logs)
        pictures = {"examples": self.results.picture(*zip(*shown, strict=True))} if shown else {}
        for metric in metrics:
            scores |= metric.compute()
            pictures |= metric.pictures()
        return Evaluation(scores, records, count, pictures)


def _merge(metrics: list[Metric], records: IO[bytes]) -> None:
    """Brings the rows of all processes into `records` and the empty `metrics`, everywhere in the same order.

    Sums of floats, and what is decided by them, are then the same in all processes.
    """
    records.seek(0)
    texts = sharding.gather_text(records.read().decode())
    records.seek(0)
    for text in texts:
        records.write(text.encode())
        for row in map(json.loads, text.splitlines()):
            for metric in metrics:
                metric.add(row)


def _scalars(terms: Means, logs: Means) -> dict[str, float]:
    """`loss`, each term without its factor, and what is logged; nan where nothing counted."""
    scalars = {"loss": sum(term.factor * _quotient(term) for term in terms.values())}
    return scalars | {name: _quotient(mean) for name, mean in (terms | logs).items()}


def _quotient(mean: Mean) -> float:
    divisor = max(mean.weight, mean.floor)
    return float(mean.total / divisor) if divisor else float("nan")


def write_result(workdir: pathlib.Path, name: str, result: Evaluation, records: str) -> dict[str, str]:
    """Writes records/RECORDS.jsonl, and predictions/NAME-*: a table of the classes and the pictures. Returns their places."""
    result.records.seek(0)
    write_atomically(workdir / "records" / f"{records}.jsonl", result.records)
    places = {}
    classes = class_table(result.scores)
    if classes:
        places["classes"] = f"predictions/{name}-classes.csv"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(classes)
        write_atomically(workdir / places["classes"], text.getvalue().encode())
    for kind, picture in result.pictures.items():
        places[kind] = f"predictions/{name}-{kind}.png"
        pictures.write_png(workdir / places[kind], picture)
    return places


def class_table(scores: Mapping[str, float | None]) -> list[list[str]]:
    """Rows of text: a class and its scores each, below the scores' names; none where no score is of a class."""
    kinds = list(dict.fromkeys(name.split("/", 1)[0] for name in scores if "/" in name))
    names = list(dict.fromkeys(name.split("/", 1)[1] for name in scores if "/" in name))
    rows = [[name, *(_text(scores.get(f"{kind}/{name}")) for kind in kinds)] for name in names]
    return [["class", *kinds], *rows] if rows else []


def table(scores: Mapping[str, float | None]) -> str:
    """The scores as aligned text: those of the classes, then those of all."""
    rows, whole = class_table(scores), [name for name in scores if "/" not in name]
    first = max(map(len, [row[0] for row in rows] + whole))
    widths = [max(len(kind), 6) + 2 for kind in (rows[0][1:] if rows else ())]
    lines = [
        f"{row[0]:<{first}}" + "".join(f"{cell or '-':>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for row in rows
    ]
    return "\n".join(lines + [f"{name:<{first}}{_text(scores[name]) or '-':>8}" for name in whole])


def _text(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else format(value, ".4f")
