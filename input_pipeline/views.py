"""Evaluation and prediction. Each image is split into views, canvases that hold the whole image or a window of it.

The config lists the canvases, so that every shape compiles once. The predictions of an image's views are merged at the
image's own size. `config.eval` defines the views.
"""

import collections
import concurrent.futures
import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.augment import geometry
from input_pipeline.augment.geometry import inner
from input_pipeline.batch import Batch, Example, Examples, Size, blank, list_canvases, row, stack
from input_pipeline.loader import local_size
from input_pipeline.truths import Truth

ALIGNMENT = 32  # windows begin at multiples of it, and so at multiples of the models' strides
FREE = ("crop", "shortest")  # values of config.data.fit that give an image a size of its own, whatever its canvas
READ = ("image", "proposals")  # the keys of an example that a network reads; the rest is ground truth
AHEAD = 2  # batches made in advance


class View(NamedTuple):
    """A canvas, the map [3,3] from the image's points to it, and whether its ground truth counts towards the loss."""

    canvas: Size
    matrix: np.ndarray
    counted: bool


@dataclasses.dataclass(frozen=True)
class Piece:
    """The content of a batch's row, a view of the image `index`, which has `count` views."""

    index: int
    view: View
    count: int


def check_views(truth: Truth, data: ConfigDict, evaluation: ConfigDict) -> None:
    """Raise UserError where config.eval.method does not fit the ground truth, or a canvas has no inside."""
    for canvas in list_canvases(data):
        geometry.check_canvas("canvases", canvas, data)
    method = evaluation.method
    if method not in truth.methods:
        raise UserError(
            f"config.eval.method={method!r} does not support {truth.keys[0]}; choose {' or '.join(truth.methods)}"
        )
    if method == "canvas" and data.fit == "shortest":
        raise UserError(
            "config.eval.method='canvas' does not work with config.data.fit='shortest'; choose whole or window"
        )
    if not evaluation.scales:
        raise UserError("config.eval.scales=() has no scale; set '(1.0,)'")


def plan_views(size: Size, data: ConfigDict, evaluation: ConfigDict) -> list[View]:
    """Return the views of an image of `size` at each scale, mirrored ones too if config.eval.flip is set."""
    views = []
    for scale in evaluation.scales:
        plan = _windows if evaluation.method == "window" else _whole
        for canvas, matrix in plan(size, data, evaluation, scale):
            views.append(View(canvas, matrix, counted=scale == evaluation.scales[0]))
            if evaluation.flip:
                mirror = geometry.about((canvas[1] / 2, canvas[0] / 2), geometry.scaling(-1.0, 1.0))
                views.append(View(canvas, mirror @ matrix, counted=False))
    # From top to bottom, whatever their scales: finished parts of an image need not be held until its end.
    return sorted(views, key=lambda view: max(0.0, -view.matrix[1, 2] / view.matrix[1, 1]))


def _whole(size: Size, data: ConfigDict, evaluation: ConfigDict, scale: float) -> list[tuple[Size, np.ndarray]]:
    """Return one view of the whole image, or windows where fit=crop and no canvas holds the image at its own scale.

    Raise UserError for an image that no canvas holds at the scale of fit=shortest.
    """
    canvas, wanted = choose_canvas(size, data), _own_size(size, data)
    if data.fit == "crop" and not _holds(canvas, wanted, data.margin):
        return _windows(size, data, evaluation, scale)
    if data.fit == "shortest" and not _holds(canvas, wanted, data.margin):
        needed = tuple(math.ceil(side / ALIGNMENT) * ALIGNMENT + 2 * data.margin for side in wanted)
        raise UserError(
            f"config.data.shortest={tuple(data.shortest)} resizes an image of {size[0]}x{size[1]} to "
            f"{wanted[0]}x{wanted[1]}, which fits none of the canvases {list_canvases(data)}; "
            f"add {needed} to config.data.canvases, or lower config.data.shortest"
        )
    if scale != 1.0:
        sides = (math.ceil(scale * side / ALIGNMENT) * ALIGNMENT for side in inner(canvas, data.margin))
        canvas = tuple(side + 2 * data.margin for side in sides)
    if data.fit != "crop":
        return [(canvas, geometry.fit(size, canvas, data.fit, data.margin, _zoom_limits(data, scale)))]
    scaled, stretch = _zoom(size, data, scale)
    return [(canvas, geometry.fit(scaled, canvas, "crop", data.margin) @ stretch)]


def _windows(size: Size, data: ConfigDict, evaluation: ConfigDict, scale: float) -> list[tuple[Size, np.ndarray]]:
    """Return overlapping tiles (Ronneberger et al. 2015, figure 2). Their inner parts cover the scaled image."""
    scaled, stretch = _zoom(size, data, scale)
    canvas = choose_canvas(size, data)
    tops, lefts = (
        _offsets(length, side, evaluation.overlap)
        for length, side in zip(scaled, inner(canvas, data.margin), strict=True)
    )
    place = [geometry.translation(data.margin - left, data.margin - top) for top in tops for left in lefts]
    return [(canvas, corner @ stretch) for corner in place]


def _offsets(length: int, window: int, overlap: float) -> list[int]:
    """Return the starts of windows that cover `length`. The last one may end up to ALIGNMENT - 1 pixels beyond it."""
    last = -(-max(length - window, 0) // ALIGNMENT) * ALIGNMENT
    step = max(int(window * (1 - overlap)) // ALIGNMENT, 1) * ALIGNMENT
    if last and step > window:
        raise UserError(
            f"a canvas with {window} pixels inside its margin is too small for windows, which need {ALIGNMENT}; enlarge it"
        )
    return [*range(0, last, step), last]


def _zoom(size: Size, data: ConfigDict, scale: float) -> tuple[Size, np.ndarray]:
    """Return the size in whole pixels of an image at a scale of its own size (or fit=shortest's), and the map to it."""
    if data.fit == "shortest":
        scaled = geometry.scale_shortest(size, _zoom_limits(data, scale))
    else:
        scaled = max(1, round(scale * size[0])), max(1, round(scale * size[1]))
    return scaled, geometry.scaling(scaled[1] / size[1], scaled[0] / size[0])


def _zoom_limits(data: ConfigDict, scale: float) -> tuple[float, float]:
    return scale * data.shortest[0], scale * data.shortest[1]


def _own_size(size: Size, data: ConfigDict) -> Size:
    """Return the size that the canvas of an image of `size` should hold."""
    return geometry.scale_shortest(size, data.shortest) if data.fit == "shortest" else size


def _holds(canvas: Size, size: Size, margin: int) -> bool:
    return all(length <= side for length, side in zip(size, inner(canvas, margin), strict=True))


def choose_canvas(size: Size, data: ConfigDict) -> Size:
    """Return the canvas whose aspect ratio is nearest to the image's, the smaller of equals.

    For fit=crop and fit=shortest, return the smallest canvas that holds the image, or the largest where none does.
    """
    canvases = list_canvases(data)
    if data.fit in FREE:
        holding = [canvas for canvas in canvases if _holds(canvas, _own_size(size, data), data.margin)]
        return min(holding, key=math.prod) if holding else max(canvases, key=math.prod)
    aspect = np.log(size[0] / size[1])
    return min(canvases, key=lambda canvas: (round(abs(np.log(canvas[0] / canvas[1]) - aspect), 6), canvas))


class ViewBatches:
    """Batches that show every view of every image once. Each batch has one canvas, and blank rows fill the last ones.

    Image i belongs to process i % process_count, whose rows show all its views. All processes yield the same number of
    batches with the same canvases. Iterating yields (batch, pieces), where piece k describes row k. `example(index)` returns
    the decoded image until `release(index)`. Only images in progress are held.
    """

    def __init__(
        self,
        source: Examples,
        truth: Truth,
        data: ConfigDict,
        evaluation: ConfigDict,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        self.source, self.truth, self.data, self.evaluation = source, truth, data, evaluation
        self.process_index, self.process_count = process_index, process_count
        self._local = local_size(evaluation.batch_size, process_count)
        self._examples: dict[int, concurrent.futures.Future] = {}

    def __iter__(self) -> Iterator[tuple[Batch, list[Piece]]]:
        with concurrent.futures.ThreadPoolExecutor(self.data.num_threads) as pool:
            ahead: collections.deque = collections.deque()
            try:
                for canvas, numbers in self._plan():
                    for index, _ in numbers:
                        if index not in self._examples:
                            self._examples[index] = pool.submit(self._load, index)
                    rows = [pool.submit(self._row, index, number, canvas) for index, number in numbers]
                    rows += [pool.submit(self._blank, canvas)] * (self._local - len(rows))
                    ahead.append(rows)
                    if len(ahead) > AHEAD:
                        yield self._collect(ahead.popleft())
                while ahead:
                    yield self._collect(ahead.popleft())
            finally:
                pool.shutdown(cancel_futures=True)
                self._examples.clear()

    def example(self, index: int) -> Example:
        return self._examples[index].result()[0]

    def views(self, index: int) -> list[View]:
        """Return the views of an image, until `release`."""
        return self._examples[index].result()[1]

    def release(self, index: int) -> None:
        del self._examples[index]

    def _plan(self) -> Iterator[tuple[Size, list[tuple[int, int]]]]:
        """Yield for each batch its canvas and this process's rows, as (index of the image, number of its view).

        A batch is due as soon as one process has enough views of its canvas, so that few images are in progress at once.
        """
        queues: dict[Size, list[list]] = collections.defaultdict(lambda: [[] for _ in range(self.process_count)])
        for index in range(len(self.source)):
            for number, view in enumerate(self._views(index, self._size(index))):
                queue = queues[view.canvas]
                mine = queue[index % self.process_count]
                mine.append((index, number))
                # The last process of a round completes it: the others then have as many images as it has.
                while index % self.process_count == self.process_count - 1 and max(map(len, queue)) >= self._local:
                    yield view.canvas, self._take(queue)
        for canvas, queue in queues.items():
            while any(queue):
                yield canvas, self._take(queue)

    def _take(self, queue: list[list]) -> list[tuple[int, int]]:
        mine = queue[self.process_index][: self._local]
        for rows in queue:
            del rows[: self._local]
        return mine

    def _size(self, index: int) -> Size:
        """Return the image's size, read only where the plan depends on it. Else any size gives the same plan."""
        canvases, resized = list_canvases(self.data), self.evaluation.method == "canvas"
        if len(canvases) == 1 and (resized or (self.evaluation.method == "whole" and self.data.fit not in FREE)):
            return inner(canvases[0], self.data.margin)
        size = self.source.size(index)
        return inner(choose_canvas(size, self.data), self.data.margin) if resized else size

    def _load(self, index: int) -> tuple[Example, list[View]]:
        """Return the decoded image, and its views by its true size."""
        example = self.source[index]
        if self.evaluation.method == "canvas":
            size = example["image"].shape[:2]
            output = inner(choose_canvas(size, self.data), self.data.margin)
            matrix = geometry.fit(size, output, self.data.fit)
            example = self.truth.resize(example, matrix, output)
        return example, self._views(index, example["image"].shape[:2])

    def _views(self, index: int, size: Size) -> list[View]:
        try:
            return plan_views(size, self.data, self.evaluation)
        except UserError as error:
            raise UserError(f"{self.source.name(index)}: {error}") from None

    def _row(self, index: int, number: int, canvas: Size) -> tuple[Batch, Piece]:
        example, views = self._examples[index].result()
        size = example["image"].shape[:2]
        if number >= len(views) or views[number].canvas != canvas:
            raise UserError(
                f"{self.source.name(index)} is {size[0]}x{size[1]} now, but had another size at the start of the evaluation; "
                "do not change images during a run"
            )
        view = views[number]
        image = geometry.sample(example["image"], view.matrix, canvas, self.data)
        shown = example if view.counted else {key: example[key] for key in READ if key in example}
        truth = self.truth.view(shown, view.matrix, canvas)
        return row(image, truth, index, size, view.matrix), Piece(index, view, len(views))

    def _blank(self, canvas: Size) -> tuple[Batch, None]:
        return blank(canvas, self.truth.blank(canvas)), None

    @staticmethod
    def _collect(futures: list) -> tuple[Batch, list[Piece]]:
        results = [future.result() for future in futures]
        return stack([rows for rows, _ in results]), [piece for _, piece in results if piece is not None]
