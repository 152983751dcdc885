"""Boxes stored as corners, centres or fractions are recognised, but not from a few unusual boxes."""

import numpy as np
import pytest

from input_pipeline.annotations import box_kinds

SIZE = 100.0
OWN = "left, top, width, height"


def draw(count, seed=0):
    """Draw the edges [N,4] (left, top, right, bottom) of boxes in an image of SIZE."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 70, (count, 2))
    return np.concatenate([low, low + rng.uniform(5, 30, (count, 2))], 1).round(1)


def write(edges, kind):
    low, high = edges[:, :2], edges[:, 2:]
    match kind:
        case "left, top, width, height":
            return np.concatenate([low, high - low], 1)
        case "centre x, centre y, width, height":
            return np.concatenate([(low + high) / 2, high - low], 1)
        case "right, bottom, left, top":
            return edges[:, [2, 3, 0, 1]]
        case "top, left, height, width":
            return np.concatenate([low, high - low], 1)[:, [1, 0, 3, 2]]
        case "top, left, bottom, right":
            return edges[:, [1, 0, 3, 2]]
    return edges


def judge(values, own=OWN, bounds=None, areas=None, size=SIZE):
    nothing = np.full((len(values), 4), np.nan)
    sizes = np.full((len(values), 2), size)
    return box_kinds.recognise(
        values, own, sizes, nothing if bounds is None else bounds, nothing[:, 0] if areas is None else areas
    )


def areas_of(edges):
    return np.prod(edges[:, 2:] - edges[:, :2], axis=1)


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("kind", [*box_kinds.KINDS, *box_kinds.SWAPPED])
@pytest.mark.parametrize("own", box_kinds.KINDS)
def test_polygons_identify_the_format_of_boxes(kind, own, count):
    """One box is enough."""
    edges = draw(count)
    assert judge(write(edges, kind), own, bounds=edges, size=np.nan) == ("" if kind == own else kind)


def test_areas_identify_boxes_stored_as_corners():
    """Width and height give the same area for every origin of the box."""
    edges = draw(40)
    assert judge(edges[:2], areas=areas_of(edges[:2]), size=np.nan) == "left, top, right, bottom"
    assert judge(edges, areas=areas_of(edges), size=np.nan) == "left, top, right, bottom"
    for kind in ("left, top, width, height", "centre x, centre y, width, height"):
        assert judge(write(edges, kind), areas=areas_of(edges), size=np.nan) == ""


def test_corners_read_as_width_and_height_leave_the_image():
    edges = np.clip(draw(30), 30, 100)
    edges[:, 2:] += 5
    assert judge(edges) == "left, top, right, bottom"


@pytest.mark.parametrize("seed", range(20))
def test_good_boxes_are_accepted(seed):
    """They may be few, have masks smaller than their boxes, reach beyond the image, or have no area."""
    edges = draw(3, seed)
    assert judge(write(edges, OWN), areas=areas_of(edges) * 0.7) == ""
    edges[0, 2:] += 50
    assert judge(write(edges, OWN), bounds=edges) == ""
    edges[1:, 2:] = edges[1:, :2]
    assert judge(write(edges, OWN), bounds=edges, areas=areas_of(edges)) == ""


def test_boxes_away_from_their_polygons_are_reported():
    """Slightly larger boxes are not reported, and neither is a minority of boxes."""
    edges = draw(20)
    grown = edges + np.array([-1, -1, 2, 2])
    assert not box_kinds.disagree(write(grown, OWN), OWN, edges)
    half = np.concatenate([edges[:, :2], (edges[:, :2] + edges[:, 2:]) / 2], 1)
    assert box_kinds.disagree(write(edges, OWN), OWN, half)
    assert not box_kinds.disagree(write(edges, OWN), OWN, np.concatenate([half[:10], edges[10:]]))
    assert not box_kinds.disagree(write(edges, OWN), OWN, np.full((20, 4), np.nan))


def test_boxes_of_another_scale_are_outside_their_images():
    edges, sizes = draw(20) + 20, np.full((20, 2), SIZE)
    assert box_kinds.leave(write(edges * 10, OWN), OWN, sizes)
    assert not box_kinds.leave(write(edges, OWN), OWN, sizes)
    assert not box_kinds.leave(write(edges[:2] * 10, OWN), OWN, sizes[:2]), "two boxes are not enough evidence"
    assert not box_kinds.leave(write(edges * 10, OWN), OWN, sizes * np.nan)


def test_boxes_without_evidence_have_no_recognised_format():
    assert judge(np.zeros((0, 4))) == ""
    assert judge(np.full((4, 4), np.nan)) == ""
    assert judge(np.full((4, 4), 1e308)) == ""


def test_fractions_are_not_pixels():
    sizes = np.full((5, 2), SIZE)
    assert box_kinds.are_fractions(draw(5) / SIZE, sizes)
    assert not box_kinds.are_fractions(draw(5), sizes)
    assert not box_kinds.are_fractions(np.zeros((0, 4)), sizes[:0])
    assert not box_kinds.are_fractions(np.array([[0, 0, 1.0, 1]] * 5), sizes), "one pixel in the corner"
