"""Timings of suppression, matching, proposals, RoIAlign, pooling and warping at the sizes of detectors, on random boxes.

    python -m benchmarks.box_operations --batch_size=8

prints one JSON object per operation, one a line, with ms of a whole batch (the median), compile_seconds and the sizes of the
input. Proposals and RoIAlign have sizes for two CPU cores; those of Faster R-CNN on COCO are

    python -m benchmarks.box_operations --batch_size=2 --height=800 --width=1344 --channels=256 --regions=512 \\
        --candidates=2000
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import json
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from models.ops import anchors, boxes, matching, nms, roi_align
from models.ops.roi_pool import roi_pool
from models.ops.spatial_pyramid import spatial_pyramid_pool
from models.ops.warp import warp

BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of a batch.", lower_bound=1)
RUNS = flags.DEFINE_integer("runs", 10, "Timed runs, of which the median counts.", lower_bound=3)
HEIGHT = flags.DEFINE_integer(
    "height", 384, "Height in pixels of the image with proposals and regions.", lower_bound=64
)
WIDTH = flags.DEFINE_integer("width", 384, "Width in pixels of this image.", lower_bound=64)
CHANNELS = flags.DEFINE_integer("channels", 64, "Channels of the features that regions are taken from.", lower_bound=1)
REGIONS = flags.DEFINE_integer("regions", 128, "Boxes per image whose features are taken.", lower_bound=1)
CANDIDATES = flags.DEFINE_integer("candidates", 200, "Proposals per level, and per image.", lower_bound=1)
CLASSES, TRUTHS = 20, 100
LEVELS = (4, 8, 16, 32)  # strides; proposals also use the next one
POOLED = 16  # stride of the feature map for RoI pooling and the spatial pyramid
WARPED = 227  # side of the input of R-CNN's network


def default_boxes() -> np.ndarray:
    """Return the 8,732 default boxes of SSD300."""
    grids = tuple((side, side) for side in (38, 19, 10, 5, 3, 1))
    sizes = (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075)
    return anchors.default_boxes((300, 300), grids, sizes, ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)))


def pyramid() -> np.ndarray:
    """Return RetinaNet's 120,240 anchors for an image of 640 x 1000."""
    levels = anchors.pyramid((640, 1000), (8, 16, 32, 64, 128), 4.0, 3, (0.5, 1.0, 2.0))
    return np.concatenate([level.reshape(-1, 4) for level in levels])


def make_boxes(rng: np.random.Generator, shape: tuple[int, ...], size: tuple[float, float]) -> np.ndarray:
    """Return random boxes in an image of `size`, [*shape,4], with up to half its sides."""
    middle, half = (size * rng.uniform(low, high, (*shape, 2)) for low, high in ((0, 1), (0.01, 0.25)))
    return np.concatenate([middle - half, middle + half], -1).astype(np.float32)


def measure(operation: str, function: Callable, images: tuple[np.ndarray, ...], **sizes: int) -> None:
    """Run `function`, which takes one image, for a batch of images, and print the line of its timing."""
    images = jax.device_put(images)
    began = time.perf_counter()
    compiled = jax.jit(jax.vmap(function)).lower(*images).compile()
    compile_seconds = time.perf_counter() - began
    seconds = []
    for _ in range(RUNS.value + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*images))
        seconds.append(time.perf_counter() - began)
    result = {
        "operation": operation,
        "platform": jax.devices()[0].device_kind,
        "batch_size": BATCH_SIZE.value,
        **sizes,
        "ms": round(1e3 * float(np.median(seconds[1:])), 2),  # the first run touches new memory
        "compile_seconds": round(compile_seconds, 2),
    }
    print(json.dumps(result), flush=True)


def match(matcher: Callable, anchors: np.ndarray, truths: jax.Array, valid: jax.Array) -> matching.Matching:
    return matcher(boxes.pairwise_iou(truths, jnp.asarray(anchors)), valid)


def propose(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the proposals of one image, from the objectness of each level."""
    size = HEIGHT.value, WIDTH.value
    levels = anchors.pyramid(size, (*LEVELS, 2 * LEVELS[-1]), 8.0, 1, (0.5, 1.0, 2.0))
    own, count = [jnp.asarray(level.reshape(-1, 4)) for level in levels], CANDIDATES.value
    return nms.propose(own, arrays, shortest=1e-3, iou=0.7, candidates=count, count=count)


def align(form: Callable, *arrays: jax.Array) -> jax.Array:
    """Return RoIAlign of one image to 7x7. The arrays are the features of LEVELS and the boxes."""
    *features, own = arrays
    levels = roi_align.assign_levels(own[None], LEVELS)
    return form(tuple(map(float, LEVELS)), (7, 7), 2, False, [level[None] for level in features], own[None], levels)[0]


def align_backward(form: Callable, *arrays: jax.Array) -> list[jax.Array]:
    """Return the gradients of the features."""
    *features, own = arrays
    return jax.grad(lambda features: align(form, *features, own).sum())(features)


def pool(features: jax.Array, own: jax.Array) -> jax.Array:
    """Return RoI pooling of one image to 7x7."""
    return roi_pool(features[None], own[None], stride=POOLED, size=(7, 7))[0]


def pool_backward(features: jax.Array, own: jax.Array) -> jax.Array:
    """Return the gradient of the features."""
    return jax.grad(lambda features: pool(features, own).sum())(features)


def pool_pyramid(features: jax.Array, own: jax.Array) -> jax.Array:
    """Return the pooling of one image in 1, 2, 3 and 6 bins a side.

    SPP-net trains nothing below it, so its gradient is not timed.
    """
    return spatial_pyramid_pool(features[None], own[None], stride=POOLED)[0]


def warp_regions(image: jax.Array, own: jax.Array) -> jax.Array:
    """Warp the regions of one image with context. Its input, pixels, needs no gradient, so only values are timed."""
    return warp(image[None], own[None], size=WARPED)[0]


def main(_) -> None:
    rng = np.random.default_rng(0)
    priors, batch = default_boxes(), BATCH_SIZE.value
    detect = partial(nms.detect, score=0.01, iou=0.45, candidates=400, count=200)
    # Random scores keep nearly the most boxes, so they take nearly the longest.
    scores = rng.random((batch, len(priors), CLASSES), np.float32)
    images = np.broadcast_to(priors, (batch, *priors.shape)), scores
    measure("nms", detect, images, boxes=len(priors), classes=CLASSES, candidates=400, detections=200)

    bipartite = partial(matching.bipartite, threshold=0.5)
    threshold = partial(matching.by_threshold, low=0.4, high=0.5, low_quality=True)
    valid = np.ones((batch, TRUTHS), bool)
    for name, matcher, fixed, side in (("bipartite", bipartite, priors, 300), ("threshold", threshold, pyramid(), 640)):
        images = make_boxes(rng, (batch, TRUTHS), (side, side)), valid
        measure(name, partial(match, matcher, fixed), images, anchors=len(fixed), truths=TRUTHS)

    size = height, width = HEIGHT.value, WIDTH.value
    grids = [(-(-height // stride), -(-width // stride)) for stride in (*LEVELS, 2 * LEVELS[-1])]
    images = tuple(rng.standard_normal((batch, 3 * rows * columns), np.float32) for rows, columns in grids)
    shown = dict(height=height, width=width)
    measure(
        "propose",
        propose,
        images,
        **shown,
        anchors=sum(level.shape[1] for level in images),
        candidates=CANDIDATES.value,
    )

    channels, regions = CHANNELS.value, REGIONS.value
    features = [rng.random((batch, *grid, channels), np.float32) for grid in grids[:-1]]
    images = *features, make_boxes(rng, (batch, regions), size)
    sizes = shown | dict(regions=regions, channels=channels)
    for name, form in roi_align.FORMS.items():
        measure(f"roi_align by {name}", partial(align, form), images, **sizes)
        measure(f"roi_align by {name}, backward", partial(align_backward, form), images, **sizes)
    images = features[LEVELS.index(POOLED)], images[-1]
    measure("roi_pool", pool, images, **sizes)
    measure("roi_pool, backward", pool_backward, images, **sizes)
    measure("spatial_pyramid_pool", pool_pyramid, images, **sizes)
    images = rng.random((batch, height, width, 3), np.float32), images[-1]
    measure("warp", warp_regions, images, **shown, regions=regions, warped=WARPED)


if __name__ == "__main__":
    app.run(main)
