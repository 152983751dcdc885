"""Recognition of a box's four numbers. It finds files whose numbers differ from those that the format prescribes.

One box may reach beyond its image, and one pair of numbers may be a coincidence. Therefore half of a file's boxes must
contradict the format's own meaning, and nearly all must fit another one. With polygons or areas one box suffices as evidence;
with image sizes at least three are needed.
"""

from collections.abc import Callable

import numpy as np

ENOUGH = 0.5  # share of the boxes that must contradict the format's own meaning
FEWEST = 3  # boxes that must leave their images, however few boxes there are
MOST = 0.95  # share of the boxes that must fit another meaning
BEYOND = 0.05  # of the image's side: a box that reaches further out of its image contradicts the assumed meaning
FARTHEST = 1e9  # larger numbers, infinity and NaN are not evidence
OVERLAP = 0.5  # IoU: a box below it does not match its polygons
NEAR = 0.02  # of the larger side of a box: edges no further apart than this, or than NEAR_PIXELS, are the same
NEAR_PIXELS = 1.5

# Each maps numbers [N,4] to edges [N,4]: left, top, right, bottom. The first one that fits is taken: widths and heights count
# as corners where nearly all of them are smaller than the left and the top edge.
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "right, bottom, left, top": lambda values: values[:, [2, 3, 0, 1]],
    "left, top, width, height": lambda values: np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], 1),
    "left, top, right, bottom": lambda values: values,
    "centre x, centre y, width, height": lambda values: np.concatenate(
        [values[:, :2] - values[:, 2:] / 2, values[:, :2] + values[:, 2:] / 2], 1
    ),
}
# Only polygons distinguish these from the ones above: with areas and image sizes, the two sides can be exchanged.
SWAPPED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "top, left, height, width": lambda values: KINDS["left, top, width, height"](values[:, [1, 0, 3, 2]]),
    "top, left, bottom, right": lambda values: values[:, [1, 0, 3, 2]],
}


def recognise(values: np.ndarray, own: str, sizes: np.ndarray, bounds: np.ndarray, areas: np.ndarray) -> str:
    """Return the meaning of `values` [N,4] if it differs from `own`, else "".

    `sizes` [N,2] are the width and height of each box's image, `bounds` [N,4] the edges of its polygons, and `areas` [N] its
    area. Unknown values are NaN.
    """
    finite = (np.abs(values) < FARTHEST).all(1)
    values, sizes, bounds, areas = values[finite], sizes[finite], bounds[finite], areas[finite]
    if not len(values):
        return ""
    edges = {kind: read(values) for kind, read in KINDS.items()}
    swapped = {kind: read(values) for kind, read in SWAPPED.items()}
    for tests, fewest in (
        ({kind: _follow(box, bounds) for kind, box in (edges | swapped).items()}, 1),
        ({kind: _measure(box, areas) for kind, box in edges.items()}, 1),
        ({kind: _lie_inside(box, sizes) for kind, box in edges.items()}, FEWEST),
    ):
        known = np.isfinite(tests[own])
        against = (tests[own] == 0) & known
        if against.sum() < max(fewest, ENOUGH * known.sum()):
            continue
        for kind, agree in tests.items():
            if kind != own and agree[known].mean() >= MOST:
                return kind
    return ""


def disagree(values: np.ndarray, own: str, bounds: np.ndarray) -> bool:
    """Return whether nearly all boxes `values` [N,4] of the meaning `own` differ from their polygons with edges `bounds`."""
    known = (np.abs(values) < FARTHEST).all(1) & np.isfinite(bounds).all(1)
    edges, bounds = KINDS[own](values[known]), bounds[known]
    both = np.minimum(edges[:, 2:], bounds[:, 2:]) - np.maximum(edges[:, :2], bounds[:, :2])
    both = np.prod(np.maximum(both, 0), 1)
    union = np.prod(edges[:, 2:] - edges[:, :2], 1) + np.prod(bounds[:, 2:] - bounds[:, :2], 1) - both
    return len(edges) >= FEWEST and (both < OVERLAP * union).mean() >= MOST


def leave(values: np.ndarray, own: str, sizes: np.ndarray) -> bool:
    """Return whether nearly all boxes `values` [N,4] of the meaning `own` are invalid in their images."""
    known = (np.abs(values) < FARTHEST).all(1) & np.isfinite(sizes).all(1)
    inside = _lie_inside(KINDS[own](values[known]), sizes[known])
    return len(inside) >= FEWEST and (inside == 0).mean() >= MOST


def are_fractions(values: np.ndarray, sizes: np.ndarray) -> bool:
    """Return whether numbers [N,4] that should be pixels are fractions of images of width and height `sizes` [N,2]."""
    finite = np.isfinite(values).all(1)
    values = values[finite]
    if not len(values) or not (sizes[finite] > 4).all():
        return False
    inside = (values >= 0).all() and (values <= 1).all()
    return bool(inside and (values % 1 != 0).any(1).mean() >= ENOUGH)


def _follow(edges: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return 1 where a box surrounds its polygons, 0 where not, NaN where there are none, [N]."""
    side = np.maximum(NEAR_PIXELS, NEAR * np.max(bounds[:, 2:] - bounds[:, :2], axis=1, initial=0))
    near = (np.abs(edges - bounds) <= side[:, None]).all(1)
    return np.where(np.isfinite(bounds).all(1), near, np.nan)


def _measure(edges: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Return 1 where a box has its written area, 0 where not, NaN where no area is written, [N]."""
    width, height = (edges[:, 2:] - edges[:, :2]).T
    near = np.zeros(len(edges), bool)
    for more in (0, 1):  # the last pixel may belong to the box
        near |= np.isclose((width + more) * (height + more), areas, rtol=0.01, atol=0.5)
    near &= (width >= 0) & (height >= 0)
    return np.where(np.isfinite(areas), near, np.nan)


def _lie_inside(edges: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return 1 where a box is valid and in its image, 0 where not, NaN where the image's size is unknown, [N]."""
    limits, slack = np.concatenate([sizes, sizes], 1), BEYOND * np.concatenate([sizes, sizes], 1)
    inside = (edges >= -slack) & (edges <= limits + slack)
    whole = inside.all(1) & (edges[:, 2:] > edges[:, :2]).all(1)
    return np.where(np.isfinite(sizes).all(1), whole, np.nan)
