"""U-Net's weights of pixels between touching objects (Ronneberger, Fischer and Brox 2015, section 3, equation 2)."""

import functools
import math

import cv2
import numpy as np

from errors import UserError

CUT_OFF = 1e-4  # of w0: weights that lie nearer to 1 than this are 1
STEPS = 4096  # distance bins per sigma; the error 0.61 / (2 STEPS) is below CUT_OFF


def weight_map(instances: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """Return weights [H,W] float32 for the objects' ids [H,W] (integers, 0 where there is no object).

    The weight is 1 on every object and 1 + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) elsewhere. d1 and d2 are the distances in pixels,
    between pixels' centres, to the nearest pixel of the nearest object and of the second nearest. The paper's first term, the
    balance of classes, is config.task.class_weights and is multiplied in there. With fewer than two objects all weights are 1.

    The error of a weight is at most CUT_OFF w0. Beyond d1 + d2 = sigma sqrt(2 ln(1 / CUT_OFF)), 4.3 sigma, it is 1. Raise
    UserError unless w0 >= 0 and sigma > 0.
    """
    if w0 < 0 or sigma <= 0:
        raise UserError(f"config.data.weight_map={(w0, sigma)} is not valid; choose w0 >= 0 and sigma > 0")
    reach = sigma * math.sqrt(2 * math.log(1 / CUT_OFF))
    nearest = np.full(instances.shape, np.inf, np.float32)
    second = nearest.copy()
    # d1 is at least 1, so pixels whose d2 is more than reach - 1 do not count.
    for number, box in _find_boxes(instances, max(0, math.floor(reach) - 1)):
        others = np.not_equal(instances[box], number).view(np.uint8)
        rough = cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # The last digit of OpenCV's square root varies, but the square is a whole number: take the root again.
        distance = np.sqrt(np.rint(np.square(rough)))
        np.minimum(second[box], np.maximum(nearest[box], distance), out=second[box])
        np.minimum(nearest[box], distance, out=nearest[box])
    weights = np.ones(instances.shape, np.float32)
    # In most pictures few pixels are within reach of two objects. On an object d1 is 0.
    between = (nearest > 0) & (nearest + second <= reach)
    steps = np.rint((nearest[between] + second[between]) * np.float32(STEPS / sigma)).astype(np.intp)
    weights[between] += np.float32(w0) * _bell()[steps]
    return weights


@functools.cache
def _bell() -> np.ndarray:
    """Return exp(-x^2 / 2) at x = i / STEPS up to the cut-off.

    The last digit of np.exp depends on its argument's place in memory, so a run would not repeat bit for bit.
    """
    count = math.ceil(math.sqrt(2 * math.log(1 / CUT_OFF)) * STEPS) + 2
    return np.array([math.exp(-((i / STEPS) ** 2) / 2) for i in range(count)], np.float32)


def _find_boxes(instances: np.ndarray, margin: int) -> list[tuple[int, tuple[slice, slice]]]:
    """Return each object's id and the part of the picture within `margin` pixels of its bounding box."""
    # An object's runs along the rows have the same bounding box as its pixels, and are far fewer.
    padded = np.pad(instances, ((0, 0), (1, 1)))
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    before, after = padded[rows, columns], padded[rows, columns + 1]
    begins, ends = after != 0, before != 0  # in pairs: no run continues in the next row
    numbers, objects = np.unique(after[begins], return_inverse=True)

    def span(first: np.ndarray, stop: np.ndarray) -> list[slice]:
        low, high = np.full(len(numbers), np.iinfo(np.intp).max), np.zeros(len(numbers), np.intp)
        np.minimum.at(low, objects, first)
        np.maximum.at(high, objects, stop)
        return [slice(max(0, a - margin), b + margin) for a, b in zip(low, high, strict=True)]

    boxes = zip(span(rows[begins], rows[begins] + 1), span(columns[begins], columns[ends]), strict=True)
    return list(zip(numbers, boxes, strict=True))
