"""Batches: for training an endless stream that is a function of the seed alone, for evaluation every image once."""

import collections
import concurrent.futures
import itertools
from collections.abc import Iterator

import grain
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import transforms
from input_pipeline.batch import IGNORE, DataError
from input_pipeline.sources import Source
from input_pipeline.transforms import Size

Batch = dict[str, np.ndarray]


class TrainLoader:
    """Batch n is a function of (seed, n): shuffled anew each epoch, each example augmented by a generator of its own.

    Every process takes its contiguous rows of the global batch, so that the number of processes does not change what is seen.
    Yields this process's rows, without end. The whole state is the number of the next batch.
    """

    def __init__(
        self,
        source: Source,
        data: ConfigDict,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        transforms.check_augment(data.augment)

        def draw(index: int, rng: np.random.Generator) -> Batch:
            return draw_row(source, int(index), data, rng)

        rows = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(draw)
        # Batches of one process's size: those of process 0, 1, ... in turn make up the global ones.
        # There is no remainder in an endless stream, but grain counts its batches in floats unless told to drop it.
        batches = rows.batch(_local_size(batch_size, process_count), drop_remainder=True)
        batches = batches.slice(slice(process_index, None, process_count))
        options = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.prefetch)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> int:
        """The number of the next batch."""
        return self._iterator.get_state()["next_index"]

    def set_state(self, number: int) -> None:
        self._iterator.set_state({"next_index": number})

    def close(self) -> None:
        self._iterator.close()


def eval_batches(
    source: Source, data: ConfigDict, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Every image exactly once over all processes, in batches of one canvas each, the last of a canvas filled up.

    All processes yield the same number of batches of the same canvases.
    """
    local = _local_size(batch_size, process_count)
    plan = []
    for canvas, indices in group_by_canvas(source, data).items():
        for first in range(0, len(indices), batch_size):
            rows = indices[first : first + batch_size] + [None] * (batch_size - len(indices) + first)
            plan.append((canvas, rows[process_index * local : (process_index + 1) * local]))
    with concurrent.futures.ThreadPoolExecutor(data.num_threads) as pool:
        ahead: collections.deque = collections.deque()
        waiting = iter(plan)
        while True:
            for canvas, rows in itertools.islice(waiting, max(0, 2 - len(ahead))):
                ahead.append([pool.submit(fit_row, source, index, data, canvas) for index in rows])
            if not ahead:
                return
            yield _stack([row.result() for row in ahead.popleft()])


def draw_row(source: Source, index: int, data: ConfigDict, rng: np.random.Generator) -> Batch:
    """A training example, augmented, as one row of a batch."""
    example, augment = source[index], data.augment
    original, size = example["image"].shape[:2], tuple(data.image_size)
    matrix = transforms.draw_geometry(rng, size, augment) @ transforms.fit(original, size, data.fit)
    displacement = transforms.draw_displacement(rng, size, augment)
    image = transforms.warp_image(example["image"], matrix, size, data.mean, displacement)
    label = transforms.warp_label(example["label"], matrix, size, displacement)
    return _row(transforms.draw_colours(rng, image, augment), label, index, original, matrix)


def fit_row(source: Source, index: int | None, data: ConfigDict, canvas: Size) -> Batch:
    """An evaluation example as it is, brought to its canvas; the filling of a batch for `index` None."""
    if index is None:
        blank = np.zeros((*canvas, 3), np.uint8), np.full(canvas, IGNORE, np.uint8)
        return _row(*blank, 0, canvas, transforms.IDENTITY) | {"example_mask": np.bool_(False)}
    example = source[index]
    original = example["image"].shape[:2]
    matrix = transforms.fit(original, canvas, data.fit)
    image = transforms.warp_image(example["image"], matrix, canvas, data.mean)
    return _row(image, transforms.warp_label(example["label"], matrix, canvas), index, original, matrix)


def fit_image(image: np.ndarray, data: ConfigDict) -> tuple[np.ndarray, np.ndarray, Size]:
    """An image without a label, as evaluation would see it: (canvas [h,w,3], to_original [2,3], original size)."""
    original = image.shape[:2]
    canvas = choose_canvas(original, data)
    matrix = transforms.fit(original, canvas, data.fit)
    return transforms.warp_image(image, matrix, canvas, data.mean), _to_original(matrix), original


def choose_canvas(size: Size, data: ConfigDict) -> Size:
    """The canvas whose shape is nearest to the image's; the smaller of equals."""
    aspect = np.log(size[0] / size[1])
    canvases = [tuple(canvas) for canvas in data.canvases]
    return min(canvases, key=lambda canvas: (round(abs(np.log(canvas[0] / canvas[1]) - aspect), 6), canvas))


def group_by_canvas(source: Source, data: ConfigDict) -> dict[Size, list[int]]:
    """Indices of the examples by their canvas, each in order. Sizes are read only where there is a choice."""
    groups: dict[Size, list[int]] = collections.defaultdict(list)
    for index in range(len(source)):
        groups[choose_canvas(source.size(index) if data.canvases[1:] else (1, 1), data)].append(index)
    return groups


def _local_size(batch_size: int, process_count: int) -> int:
    if batch_size % process_count:  # the rest would never be seen
        raise DataError(f"a batch of {batch_size} does not divide among {process_count} processes; choose a multiple")
    return batch_size // process_count


def _row(image: np.ndarray, label: np.ndarray, index: int, original: Size, matrix: np.ndarray) -> Batch:
    return {
        "image": image,
        "label": label,
        "image_id": np.int32(index),
        "example_mask": np.bool_(True),
        "original_size": np.array(original, np.int32),
        "to_original": _to_original(matrix),
    }


def _to_original(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.inv(matrix)[:2].astype(np.float32)


def _stack(rows: list[Batch]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
