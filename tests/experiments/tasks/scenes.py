"""Batches of objects for the tests of detection losses, and measures of single boxes."""

import numpy as np

CLASSES = ("cat", "dog", "owl")
SIZE = (40, 48)
MOST = 5  # objects per image


def make_batch(*images, size=SIZE):
    """Make a batch of images. An image is a list of objects (box, class, flags). Flags are "c" (crowd), "d" (difficult).

    Images without objects are added up to a multiple of three, so that few programs are compiled.
    """
    count = len(images) + -len(images) % 3
    batch = {
        "image": np.zeros((count, *size, 3), np.uint8),
        "example_mask": np.ones(count, bool),
        "original_size": np.full((count, 2), size, np.int32),
        "to_original": np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1)),
        "boxes": np.zeros((count, MOST, 4), np.float32),
        "classes": np.zeros((count, MOST), np.int32),
        "boxes_lost": np.zeros(count, np.int32),
    } | {name: np.zeros((count, MOST), bool) for name in ("valid", "crowd", "difficult")}
    for row, objects in enumerate(images):
        for place, (box, index, flags) in enumerate(objects):
            batch["boxes"][row, place], batch["classes"][row, place] = box, index
            batch["valid"][row, place] = True
            batch["crowd"][row, place], batch["difficult"][row, place] = "c" in flags, "d" in flags
    return batch


def random_batch(generator):
    """Draw a batch with crowds, difficult objects, an image without objects, one with only a crowd, and a padded row."""

    def box():
        height, width = generator.uniform(6, 28, 2)
        top, left = generator.uniform(0, SIZE[0] - height), generator.uniform(0, SIZE[1] - width)
        return top, left, top + height, left + width

    flags = (["", "c", "", "d", ""], [], ["d", "d", ""], ["c"], ["", ""], ["", "c", "d"])
    batch = make_batch(*([(box(), generator.integers(3), flag) for flag in image] for image in flags))
    batch["example_mask"][4] = False
    batch["boxes_lost"] = np.array([2, 0, 1, 0, 0, 0], np.int32)
    hidden = ~batch["valid"]  # values in padding must have no effect
    batch["boxes"][hidden] = (0, 0, *SIZE)
    batch["crowd"][hidden], batch["classes"][hidden] = True, 2
    return batch


def overlap(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(height, 0) * max(width, 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a, b):
    return overlap(a, b) / (area(a) + area(b) - overlap(a, b))
