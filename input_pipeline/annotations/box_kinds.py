"""What four numbers of a box mean: recognises files whose numbers are not those that the format asks for.

One box may reach beyond its image, and one pair of numbers may be a coincidence: it takes half of a file's boxes against the
format's own meaning, and nearly all for another one. Polygons and areas say so of a single box; images of three at least.
"""

from collections.abc import Callable

import numpy as np

ENOUGH = 0.5  # of the boxes, against their own meaning
FEWEST = 3  # boxes that leave their images, however few there are
MOST = 0.95  # of the boxes, for another one
BEYOND = 0.05  # of the image's side: a box that reaches further out of its image counts against what it was taken for
FARTHEST = 1e9  # numbers beyond it, infinity and NaN say nothing
OVERLAP = 0.5  # intersection over union: a box with less of it is not that of its polygons
NEAR = 0.02  # of the larger side of a box, or pixels in NEAR_PIXELS: edges that are no further apart are the same
NEAR_PIXELS = 1.5

# Each maps numbers [N,4] to edges [N,4]: left, top, right, bottom. The first one that fits is taken: widths and heights
# are taken for corners where nearly all of them are smaller than the left and the top edge.
KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "right, bottom, left, top": lambda values: values[:, [2, 3, 0, 1]],
    "left, top, width, height": lambda values: np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], 1),
    "left, top, right, bottom": lambda values: values,
    "centre x, centre y, width, height": lambda values: np.concatenate(
        [values[:, :2] - values[:, 2:] / 2, values[:, :2] + values[:, 2:] / 2], 1
    ),
}
# Only polygons tell these from the ones above: areas and images have two sides that may be either.
SWAPPED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "top, left, height, width": lambda values: KINDS["left, top, width, height"](values[:, [1, 0, 3, 2]]),
    "top, left, bottom, right": lambda values: values[:, [1, 0, 3, 2]],
}


def recognise(values: np.ndarray, own: str, sizes: np.ndarray, bounds: np.ndarray, areas: np.ndarray) -> str:
    """Return the meaning of `values` [N,4] if it is another one than `own`, else "".

    `sizes` [N,2] are the width and height of each box's image, `bounds` [N,4] the edges of its polygons and `areas` [N] its
    area; NaN where one is not known.
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
    """Whether nearly all boxes `values` [N,4] of the meaning `own` are elsewhere than their polygons, with edges `bounds`."""
    known = (np.abs(values) < FARTHEST).all(1) & np.isfinite(bounds).all(1)
    edges, bounds = KINDS[own](values[known]), bounds[known]
    both = np.minimum(edges[:, 2:], bounds[:, 2:]) - np.maximum(edges[:, :2], bounds[:, :2])
    both = np.prod(np.maximum(both, 0), 1)
    union = np.prod(edges[:, 2:] - edges[:, :2], 1) + np.prod(bounds[:, 2:] - bounds[:, :2], 1) - both
    return len(edges) >= FEWEST and (both < OVERLAP * union).mean() >= MOST


def leave(values: np.ndarray, own: str, sizes: np.ndarray) -> bool:
    """Whether nearly all boxes `values` [N,4] of the meaning `own` are none in images of width and height `sizes` [N,2]."""
    known = (np.abs(values) < FARTHEST).all(1) & np.isfinite(sizes).all(1)
    inside = _lie_inside(KINDS[own](values[known]), sizes[known])
    return len(inside) >= FEWEST and (inside == 0).mean() >= MOST


def are_fractions(values: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether numbers [N,4] that are to be pixels are fractions of images with the width and height `sizes` [N,2]."""
    finite = np.isfinite(values).all(1)
    values = values[finite]
    if not len(values) or not (sizes[finite] > 4).all():
        return False
    inside = (values >= 0).all() and (values <= 1).all()
    return bool(inside and (values % 1 != 0).any(1).mean() >= ENOUGH)


def _follow(edges: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """[N]: 1 where a box is around its polygons, 0 where not, NaN where there are none."""
    side = np.maximum(NEAR_PIXELS, NEAR * np.max(bounds[:, 2:] - bounds[:, :2], axis=1, initial=0))
    near = (np.abs(edges - bounds) <= side[:, None]).all(1)
    return np.where(np.isfinite(bounds).all(1), near, np.nan)


def _measure(edges: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """[N]: 1 where a box has the area that is written, 0 where it has another, NaN where none is written."""
    width, height = (edges[:, 2:] - edges[:, :2]).T
    near = np.zeros(len(edges), bool)
    for more in (0, 1):  # the last pixel may belong to the box
        near |= np.isclose((width + more) * (height + more), areas, rtol=0.01, atol=0.5)
    near &= (width >= 0) & (height >= 0)
    return np.where(np.isfinite(areas), near, np.nan)


def _lie_inside(edges: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[N]: 1 where a box is one and lies in its image, 0 where not, NaN where the image's size is not known."""
    limits, slack = np.concatenate([sizes, sizes], 1), BEYOND * np.concatenate([sizes, sizes], 1)
    inside = (edges >= -slack) & (edges <= limits + slack)
    whole = inside.all(1) & (edges[:, 2:] > edges[:, :2]).all(1)
    return np.where(np.isfinite(sizes).all(1), whole, np.nan)
