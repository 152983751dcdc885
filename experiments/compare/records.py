"""The records of an evaluation, one row per image, and the scores of samples of these images."""

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from errors import UserError
from experiments.compare.runs import Run
from experiments.metrics.average_precision import AveragePrecision
from experiments.metrics.base import Metric
from experiments.metrics.mask_precision import MaskPrecision
from experiments.metrics.precision import MOST
from experiments.metrics.registry import LABEL_METRICS, make_label_metrics, make_mask_metrics
from files import parse_json, read_bytes
from limits import RECORDS

AGAIN = "evaluate the run with --mode=evaluate, and choose the records that it writes with --records"

BOX_METRICS = {AveragePrecision.name, MaskPrecision.name}


@dataclasses.dataclass(frozen=True)
class Records:
    """The measurements of a run in each image, with `parts` by metric name in the order of `images`.

    `classes` are the names of the classes, in the numbering of the parts. `truths` describe the ground truth of each image, to
    check that two runs were scored against the same one.
    """

    where: str
    images: tuple[str, ...]
    parts: Mapping[str, Sequence[Any]]
    truths: Sequence[Any]
    metrics: Sequence[Metric]
    classes: tuple[str, ...]

    def sort_as(self, other: "Records") -> "Records":
        """Return these records in the order of the other ones.

        Raise UserError if images, classes or ground truth differ.
        """
        if self.classes != other.classes:
            pairs = enumerate(itertools.zip_longest(self.classes, other.classes))
            number, (own, theirs) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
            raise UserError(
                f"{self.where} and {other.where} have different classes: number {number} is {own!r} in the first and {theirs!r} "
                "in the second; compare runs with the same classes in the same order"
            )
        places = {image: place for place, image in enumerate(self.images)}
        if places.keys() != set(other.images):
            strange = sorted(places.keys() ^ set(other.images))
            raise UserError(
                f"{self.where} and {other.where} have different images: {len(strange)} are in only one of them, such as "
                f"{strange[0]!r}; evaluate both runs on the same split"
            )
        order = [places[image] for image in other.images]
        truths = [self.truths[place] for place in order]
        differing = [
            image for image, *both in zip(other.images, truths, other.truths, strict=True) if both[0] != both[1]
        ]
        if differing:
            raise UserError(
                f"{self.where} and {other.where} were scored against different ground truth in {len(differing)} images, such "
                f"as {differing[0]!r}; evaluate both runs on the same data"
            )
        parts = {name: [own[place] for place in order] for name, own in self.parts.items()}
        return dataclasses.replace(self, images=other.images, parts=parts, truths=truths)

    def resample(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores of R samples by name, [R]. Sample r contains image i weights[r, i] times.

        Raise UserError if the file is damaged, so that a part does not belong to its metric.
        """
        scores: dict[str, np.ndarray] = {}
        for metric in self.metrics:
            with self._naming_damage(metric):
                scores |= metric.resample(self.parts[metric.name], weights)
        return scores

    def fill(self, metric: Metric) -> None:
        """Add the parts of all images to a metric. Raise UserError as `resample` does."""
        with self._naming_damage(metric):
            for image, part in enumerate(self.parts[metric.name]):
                metric.add(part, image)

    @contextlib.contextmanager
    def _naming_damage(self, metric: Metric) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{self.where} is damaged ({error!r} in {metric.name}); {AGAIN}") from error


def read_records(run: Run, name: str = "val") -> Records:
    """Read records/NAME.jsonl of a run, of its last evaluation (`val`) or of --mode=evaluate.

    Raise UserError if the file is missing or damaged.
    """
    path = run.workdir / "records" / f"{name}.jsonl"
    try:
        lines = read_bytes(path, RECORDS).splitlines()
        rows = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
        if not rows:
            raise UserError(f"{path} is empty; {AGAIN}")
        names = [row["name"] for row in rows]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("the name of an image is not text")
        if len(set(names)) < len(names):
            names = [f"{row['name']} {row['source_id']}" for row in rows]
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise UserError(f"{path} has the image {twice!r} more than once; {AGAIN}")
        classes = list_classes(run)
        metrics = _make_metrics(run, rows[0], classes)
        parts = {metric.name: [row[metric.name] for row in rows] for metric in metrics}
        return Records(str(path), tuple(names), parts, [_find_truth(row) for row in rows], metrics, classes)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {AGAIN}") from None
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); {AGAIN}") from None


def list_classes(run: Run) -> tuple[str, ...]:
    """Return the class names of a run in their order, from the names of its scores. Raise UserError if it has none."""
    for row in reversed(run.rows):
        kinds: dict[str, list[str]] = {}
        for name in row:
            if name.startswith("val/") and name.count("/") > 1:
                _, kind, class_name = name.split("/", 2)
                kinds.setdefault(kind, []).append(class_name)
        if kinds:
            return tuple(next(iter(kinds.values())))
    raise UserError(f"{run.workdir}: no row of metrics.jsonl has per-class scores yet; wait for the first evaluation")


def _make_metrics(run: Run, row: Mapping[str, Any], classes: tuple[str, ...]) -> list[Metric]:
    if BOX_METRICS & row.keys():
        if "eval.metrics" not in run.config:
            raise UserError(f"{run.workdir / 'config.json'} has no eval.metrics, which the records need; restore it")
        # The field is newer than some runs, which scored with its neutral value.
        most = run.field("eval.scored_detections") or MOST
        metrics = make_mask_metrics(run.config["eval.metrics"], classes, most)
    else:
        metrics = make_label_metrics([name for name in LABEL_METRICS if name in row], classes)
    return [metric for metric in metrics if metric.name in row]


def _find_truth(row: Mapping[str, Any]) -> Any:
    """Return the objects of an image, or the pixels of each of its classes, as far as a row has them."""
    if AveragePrecision.name in row:
        return row[AveragePrecision.name]["objects"]
    pixels: dict[int, int] = {}
    for true, _, count in row.get("confusion", ()):
        pixels[true] = pixels.get(true, 0) + count
    return pixels
