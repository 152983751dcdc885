"""Training batches, an endless stream that depends on the seed and the batch's number alone."""

from collections.abc import Iterator

import grain
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline.augment.colour import draw_colours
from input_pipeline.batch import Batch
from input_pipeline.sources import Source, check_provided
from input_pipeline.truths import Truth


class TrainLoader:
    """Batch n is a function of (seed, n). Each epoch is shuffled again, and each example is augmented by its own generator.

    Every process takes its contiguous rows of the global batch, so the number of processes does not change the samples.
    The loader yields this process's rows without end. Its whole state is the number of the next batch.
    """

    def __init__(
        self,
        source: Source,
        truth: Truth,
        data: ConfigDict,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        check_provided(data.name, truth.source_keys, source[0].keys())

        def draw(index: int, rng: np.random.Generator) -> Batch:
            return draw_row(source, truth, int(index), data.augment, rng)

        rows = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(draw)
        # Each of these batches has the rows of one process: those of process 0, 1, ... in turn make up the global batches.
        # An endless stream has no remainder, but grain counts its batches in floats unless it drops the remainder.
        batches = rows.batch(local_size(batch_size, process_count), drop_remainder=True)
        batches = batches.slice(slice(process_index, None, process_count))
        options = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.prefetch)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> int:
        """Return the number of the next batch."""
        return self._iterator.get_state()["next_index"]

    def set_state(self, number: int) -> None:
        self._iterator.set_state({"next_index": number})

    def close(self) -> None:
        self._iterator.close()


def draw_row(source: Source, truth: Truth, index: int, augment: ConfigDict, rng: np.random.Generator) -> Batch:
    """Return an augmented training example as one row of a batch."""
    drawn = truth.draw(source, index, rng)
    return drawn | {"image": draw_colours(rng, drawn["image"], augment)}


def local_size(batch_size: int, process_count: int) -> int:
    """Return the number of rows of one process. Raise UserError where processes would differ."""
    if batch_size % process_count:  # the rest would never be seen
        raise UserError(f"a batch of {batch_size} does not divide among {process_count} processes; choose a multiple")
    return batch_size // process_count
