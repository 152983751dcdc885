"""Training batches: an endless stream that is a function of the seed and the batch's number alone."""

from collections.abc import Iterator

import grain
import numpy as np
from ml_collections import ConfigDict

from input_pipeline import transforms
from input_pipeline.batch import DataError
from input_pipeline.sources import Source
from input_pipeline.transforms import Size
from input_pipeline.weight_map import weight_map

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
        transforms.check_border(data.border)
        if data.weight_map[0] and "instances" not in source[0]:
            raise DataError(
                f"config.data.weight_map={tuple(data.weight_map)} needs objects to keep apart, and {data.name} names none; "
                "image_mask does with config.data.folder.instances=folder or components"
            )

        def draw(index: int, rng: np.random.Generator) -> Batch:
            return draw_row(source, int(index), data, rng)

        rows = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().random_map(draw)
        # Batches of one process's size: those of process 0, 1, ... in turn make up the global ones.
        # There is no remainder in an endless stream, but grain counts its batches in floats unless told to drop it.
        batches = rows.batch(local_size(batch_size, process_count), drop_remainder=True)
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


def draw_row(source: Source, index: int, data: ConfigDict, rng: np.random.Generator) -> Batch:
    """A training example, augmented, as one row of a batch."""
    example, augment = source[index], data.augment
    original, size = example["image"].shape[:2], tuple(data.image_size)
    fitted = transforms.fit(original, size, data.fit, data.margin)
    content = (original[0] * fitted[1, 1], original[1] * fitted[0, 0])
    matrix = transforms.draw_geometry(rng, size, augment, content, data.margin) @ fitted
    displacement = transforms.draw_displacement(rng, size, augment)
    image = transforms.warp_image(example["image"], matrix, size, border_fill(data), displacement)
    label = transforms.warp_label(example["label"], matrix, size, displacement)
    drawn = row(transforms.draw_colours(rng, image, augment), label, index, original, matrix)
    w0, sigma = data.weight_map
    if w0:
        instances = transforms.warp_label(example["instances"], matrix, size, displacement, fill=0)
        drawn["weight_map"] = weight_map(instances, w0, sigma)
    return drawn


def border_fill(data: ConfigDict) -> tuple[float, ...] | None:
    """What `transforms.warp_image` takes as its fill, by config.data.border."""
    return None if data.border == "mirror" else data.mean


def local_size(batch_size: int, process_count: int) -> int:
    """The rows of one process. Raises DataError where they would differ."""
    if batch_size % process_count:  # the rest would never be seen
        raise DataError(f"a batch of {batch_size} does not divide among {process_count} processes; choose a multiple")
    return batch_size // process_count


def row(image: np.ndarray, label: np.ndarray, index: int, original: Size, matrix: np.ndarray) -> Batch:
    """One example as a row of a batch; `matrix` [3,3] maps the stored image's points to those of `image`."""
    return {
        "image": image,
        "label": label,
        "image_id": np.int32(index),
        "example_mask": np.bool_(True),
        "original_size": np.array(original, np.int32),
        "to_original": np.linalg.inv(matrix)[:2].astype(np.float32),
    }


def stack(rows: list[Batch]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
