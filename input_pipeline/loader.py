"""Training batches: an endless stream that is a function of the seed and the batch's number alone."""

from collections.abc import Iterator

import grain
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from input_pipeline import crops, mixtures, objects, transforms
from input_pipeline.mixtures import Picture
from input_pipeline.sources import Example, Source
from input_pipeline.transforms import Size
from input_pipeline.weight_map import weight_map

Batch = dict[str, np.ndarray]

CENTRE = (0.25, 0.75)  # where a mosaic's centre lies, in shares of each side
MIXUP = (1.5, 1.5)  # of the beta distribution of a picture's share (Zhang et al. 2019, "Bag of Freebies")
PASTED = 0.5  # the probability of an object to be among those that are pasted


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
        objects.check_truth(data)
        transforms.check_augment(data)
        first = source[0]
        if data.truth not in first:
            raise UserError(
                f"config.data.truth={data.truth!r} is not what {data.name} has; choose another or another set"
            )
        if data.weight_map[0] and "instances" not in first:
            raise UserError(
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
    if data.truth == "label":
        image, truth, original, matrix = draw_labelled(source[index], data, rng)
    else:
        image, seen, original, matrix = draw_mixed(source, index, data, rng)
        truth = objects.pad(seen, data.max_boxes)
    return row(transforms.draw_colours(rng, image, data.augment), truth, index, original, matrix)


def draw_map(rng: np.random.Generator, shown: Size, size: Size, data: ConfigDict) -> np.ndarray:
    """A random map [3,3] from the points of an image, or a window, of size `shown` to those of an output of `size`."""
    fitted = transforms.fit(shown, size, data.fit, data.margin)
    content = (shown[0] * fitted[1, 1], shown[1] * fitted[0, 0])
    return transforms.draw_geometry(rng, size, data.augment, content, data.margin) @ fitted


def draw_labelled(
    example: Example, data: ConfigDict, rng: np.random.Generator
) -> tuple[np.ndarray, Batch, Size, np.ndarray]:
    """(image, its label and weight map, the stored image's size, the map [3,3] from its points) of an example."""
    original, size = example["image"].shape[:2], tuple(data.image_size)
    matrix = draw_map(rng, original, size, data)
    displacement = transforms.draw_displacement(rng, size, data.augment)
    image = transforms.warp_image(example["image"], matrix, size, border_fill(data), displacement)
    truth = {"label": transforms.warp_label(example["label"], matrix, size, displacement)}
    w0, sigma = data.weight_map
    if w0:
        instances = transforms.warp_label(example["instances"], matrix, size, displacement, fill=0)
        truth["weight_map"] = weight_map(instances, w0, sigma)
    return image, truth, original, matrix


def draw_mixed(source: Source, index: int, data: ConfigDict, rng: np.random.Generator) -> Picture:
    """A picture with objects, blended with that of another example where config.data.augment.mixup says so."""
    picture = draw_composed(source, index, data, rng)
    if rng.random() >= data.augment.mixup:
        return picture
    other = draw_composed(source, draw_partner(source, rng), data, rng)
    return mixtures.mixup(picture, other, rng.beta(*MIXUP))


def draw_composed(source: Source, index: int, data: ConfigDict, rng: np.random.Generator) -> Picture:
    """An example alone or in a mosaic, and what is pasted onto it."""
    augment, size = data.augment, tuple(data.image_size)
    if rng.random() < augment.mosaic:
        picture = draw_mosaic(source, index, data, rng)
    else:
        picture = draw_alone(source[index], size, data, rng)
    if rng.random() >= augment.copy_paste:
        return picture
    donor = draw_alone(source[draw_partner(source, rng)], size, data, rng)
    chosen = rng.random(len(donor.objects["boxes"])) < PASTED
    return mixtures.copy_paste(picture, donor, chosen, augment.min_visible)


def draw_mosaic(source: Source, index: int, data: ConfigDict, rng: np.random.Generator) -> Picture:
    """Four examples, `index` at the top left, each drawn at the size of its quadrant around a random centre."""
    height, width = data.image_size
    top, left = (min(max(round(rng.uniform(*CENTRE) * side), 1), side - 1) for side in (height, width))
    quadrants = [(tall, wide) for tall in (top, height - top) for wide in (left, width - left)]
    indices = [index, *(draw_partner(source, rng) for _ in quadrants[1:])]
    return mixtures.mosaic([draw_alone(source[i], size, data, rng) for i, size in zip(indices, quadrants, strict=True)])


def draw_partner(source: Source, rng: np.random.Generator) -> int:
    return int(rng.integers(len(source)))


def draw_alone(example: Example, size: Size, data: ConfigDict, rng: np.random.Generator) -> Picture:
    """An example with objects as a picture of `size`: a window of it, through a random map that samples it once."""
    augment, original = data.augment, example["image"].shape[:2]
    annotated = objects.take(example, data.truth)
    window = crops.draw_window(rng, original, annotated, augment)
    top, left, bottom, right = window
    matrix = draw_map(rng, (bottom - top, right - left), size, data) @ transforms.translation(-left, -top)
    part, from_part = transforms.cut(window, original, matrix)
    image = transforms.warp_image(example["image"][part], from_part, size, border_fill(data))
    if augment.iou_crop:
        annotated = objects.pick(annotated, annotated["crowd"] | crops.have_centre(annotated["boxes"], window))
    seen = objects.follow(annotated, matrix, window, size, augment.min_visible)
    return Picture(image, seen, original, matrix)


def border_fill(data: ConfigDict) -> tuple[float, ...] | None:
    """What `transforms.warp_image` takes as its fill, by config.data.border."""
    return None if data.border == "mirror" else data.mean


def local_size(batch_size: int, process_count: int) -> int:
    """The rows of one process. Raises UserError where they would differ."""
    if batch_size % process_count:  # the rest would never be seen
        raise UserError(f"a batch of {batch_size} does not divide among {process_count} processes; choose a multiple")
    return batch_size // process_count


def row(image: np.ndarray, truth: Batch, index: int, original: Size, matrix: np.ndarray) -> Batch:
    """One example as a row of a batch.

    `truth` are its keys by config.data.truth; `matrix` [3,3] maps the stored image's points to those of `image`.
    """
    return {
        "image": image,
        **truth,
        "image_id": np.int32(index),
        "example_mask": np.bool_(True),
        "original_size": np.array(original, np.int32),
        "to_original": np.linalg.inv(matrix)[:2].astype(np.float32),
    }


def stack(rows: list[Batch]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
