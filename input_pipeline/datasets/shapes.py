"""`shapes`, a synthetic dataset of geometric figures, drawn from a seed in seconds, without a download.

Each picture has a textured, pale background and one to four figures. They differ in form, size, angle, colour and texture, and
partly hide one another. Each form has roughly its own hue, so a small network learns to distinguish them within a minute; their
outlines are harder. Every picture has a semantic mask, an instance mask and boxes, so every task of this project runs on it.

The pixels are the same on every platform: numpy's PCG64 is the same, and everything is rasterised in integers of 1/16 pixel.
"""

import colorsys
import io

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.batch import Size
from input_pipeline.datasets.prepared import Dataset, Record, read_label, read_text, scale_boxes
from input_pipeline.decoding import decode_mask, encode_png
from input_pipeline.masks import cut_out, find_regions
from input_pipeline.objects import Objects
from input_pipeline.preparation import Built

FIGURES = ("circle", "square", "triangle", "star", "ring")
CLASS_NAMES = ("background", *FIGURES)
EXAMPLES = {"train": 600, "validation": 100}

_SUBPIXELS = 16
_MIN_VISIBLE = 0.5  # of a figure's area inside the picture; a placement that hides more of any figure is drawn again
_HUE_SPREAD = 0.06  # turns of the colour wheel to both sides of a figure's own hue; these hues are 0.2 turns apart


def draw_example(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a picture [H,W,3] uint8, its instance mask [H,W] uint8 and its labels [N] int64, indices of FIGURES.

    The instance mask holds i + 1 where figure i is visible and 0 for the background. H and W lie within 80 to 112.
    """
    height, width = generator.integers(80, 113, 2)
    background = _draw_shades(generator, hue=generator.uniform(), saturation=(0.0, 0.25))
    picture = _draw_texture(generator, height, width, background)
    instances = np.zeros((height, width), np.uint8)
    labels: list[int] = []
    areas: list[int] = []
    for _ in range(generator.integers(1, 5)):
        label = int(generator.integers(len(FIGURES)))
        for _attempt in range(10):
            inside = _draw_figure(generator, FIGURES[label], height, width)
            covered = np.where(inside, len(labels) + 1, instances)
            visible = np.bincount(covered.ravel(), minlength=len(labels) + 2)[1:]
            if np.all(visible >= _MIN_VISIBLE * np.array([*areas, inside.sum()])):
                break
        else:
            continue
        instances = covered.astype(np.uint8)
        labels.append(label)
        areas.append(int(inside.sum()))
        hue = label / len(FIGURES) + generator.uniform(-_HUE_SPREAD, _HUE_SPREAD)
        colours = _draw_shades(generator, hue, saturation=(0.45, 1.0))
        picture = np.where(inside[..., None], _draw_texture(generator, height, width, colours), picture)
    noise = generator.integers(-12, 13, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), instances, np.array(labels, np.int64)


def find_boxes(instances: np.ndarray) -> np.ndarray:
    """Return the boxes [N,4] int64 of the visible part of each instance, (top, left, bottom, right) with exclusive ends."""
    boxes = []
    for i in range(1, int(instances.max()) + 1):
        rows, columns = np.nonzero(np.any(instances == i, axis=1))[0], np.nonzero(np.any(instances == i, axis=0))[0]
        boxes.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
    return np.array(boxes, np.int64).reshape(-1, 4)


def _draw_shades(generator: np.random.Generator, hue: float, saturation: tuple[float, float]) -> np.ndarray:
    """Draw two colours [2,3] of one hue, the second a shade of the first."""
    colour = colorsys.hsv_to_rgb(hue % 1.0, generator.uniform(*saturation), generator.uniform(0.4, 1.0))
    colour = np.rint(np.multiply(colour, 255)).astype(np.int64)
    return np.stack([colour, np.clip(colour + generator.integers(-40, 41), 0, 255)])


def _draw_texture(generator: np.random.Generator, height: int, width: int, colours: np.ndarray) -> np.ndarray:
    """Draw a picture [H,W,3] int64 that mixes two colours [2,3] by a random pattern."""
    y, x = np.mgrid[:height, :width]
    period = int(generator.integers(4, 17))
    match generator.integers(4):
        case 0:  # stripes along a random direction
            a, b = generator.integers(-2, 3, 2)
            weight = (a * x + b * y) // period % 2 * 255
        case 1:  # checks
            weight = (x // period + y // period) % 2 * 255
        case 2:  # a gradient across the picture
            weight = (x * 255 // width + y * 255 // height) // 2
        case _:  # blocks of random strength
            blocks = generator.integers(0, 256, (height // period + 1, width // period + 1))
            weight = blocks[y // period, x // period]
    first, second = colours
    return first + (second - first) * weight[..., None] // 255


def _draw_figure(generator: np.random.Generator, figure: str, height: int, width: int) -> np.ndarray:
    """Draw the pixels [H,W] bool of a figure of random size, angle and place, its centre inside the picture."""
    radius = int(generator.integers(16 * _SUBPIXELS, 33 * _SUBPIXELS))
    margin = radius // 2
    centre_x = int(generator.integers(margin, width * _SUBPIXELS - margin))
    centre_y = int(generator.integers(margin, height * _SUBPIXELS - margin))
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width] * _SUBPIXELS + _SUBPIXELS // 2  # pixel centres
    x, y = x - centre_x, y - centre_y
    match figure:
        case "circle":
            return x**2 + y**2 <= radius**2
        case "ring":
            return (x**2 + y**2 <= radius**2) & (x**2 + y**2 >= (radius * 9 // 16) ** 2)
        case "square":
            radii = np.ones(4)
        case "triangle":
            radii = np.ones(3)
        case _:  # a star
            radii = np.tile([1.0, 0.42], 5)
    angles = angle + 2 * np.pi * np.arange(len(radii)) / len(radii)
    corners = radius * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return _fill_polygon(np.rint(corners).astype(np.int64), x, y)


def _fill_polygon(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points (x, y) lie inside the polygon of integer `corners` [N,2].

    These have an odd number of edges to their right.
    """
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        spans = (y0 > y) != (y1 > y)
        left_of_edge = ((x1 - x0) * (y - y0) - (x - x0) * (y1 - y0) > 0) == (y1 > y0)
        inside ^= spans & left_of_edge
    return inside


class Shapes(tfds.core.GeneratorBasedBuilder):
    """The tfds builder. It reads and writes like any other tfds dataset."""

    VERSION = tfds.core.Version("1.0.0")  # raise it whenever a pixel changes: prepared copies are named by it
    RELEASE_NOTES = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "image_id": np.int64,  # unique over all splits
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),  # of CLASS_NAMES
            "instance_mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),  # i + 1 for objects[i]
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),  # of the visible part
                    "label": tfds.features.ClassLabel(names=FIGURES),
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Geometric figures on textured backgrounds, with semantic masks, instance masks and boxes.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # examples stay in the order in which they are drawn
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in EXAMPLES}

    def _generate_examples(self, split: str):
        number = list(EXAMPLES).index(split)
        for i in range(EXAMPLES[split]):
            image, instances, labels = draw_example(np.random.default_rng((number, i)))
            semantic = np.concatenate([[0], labels + 1]).astype(np.uint8)[instances]
            boxes = find_boxes(instances) / np.tile(instances.shape, 2)
            yield (
                i,
                {
                    "file_name": f"{split}_{i:05d}",
                    "image": io.BytesIO(encode_png(image)),
                    "image_id": number * 1_000_000 + i,
                    "segmentation_mask": io.BytesIO(encode_png(semantic)),
                    "instance_mask": io.BytesIO(encode_png(instances)),
                    "objects": [
                        {"bbox": tfds.features.BBox(*box), "label": int(label)}
                        for box, label in zip(boxes, labels, strict=True)
                    ],
                },
            )


def read_objects(record: Record, size: Size) -> Objects:
    """Read the objects. Boxes were whole pixels before tfds divided them by the size."""
    return {"boxes": np.rint(scale_boxes(record, size)), "classes": np.array(record["objects"]["label"])}


def read_masks(record: Record, size: Size) -> np.ndarray:
    instances = decode_mask(record["instance_mask"], f"the instances of {read_text(record, 'file_name')}")
    numbers, boxes, _ = find_regions(instances)
    return cut_out(instances, numbers, boxes)


SHAPES = Dataset(
    preparation=Built(Shapes),
    name=lambda record: read_text(record, "file_name"),
    class_names=CLASS_NAMES,
    read_label=read_label,
    read_objects=read_objects,
    read_masks=read_masks,
)
