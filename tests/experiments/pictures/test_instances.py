"""Pictures of instances give neighbours different colours, draw the pixels of masks, and draw names if they have room."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.pictures.instances import (
    INSTANCES,
    OPACITY,
    REACH,
    choose_colours,
    compare_instances,
    draw_instances,
)
from experiments.pictures.outcomes import Outcome
from experiments.pictures.palette import OKABE_ITO, class_colour
from input_pipeline.masks import Mask, collect
from tests.experiments.pictures.colours import shares

SIZE = (700, 900)  # not enlarged
PURPLE = np.full((*SIZE, 3), (100, 50, 150), np.uint8)
GREY = round(0.299 * 100 + 0.587 * 50 + 0.114 * 150)


def instances(*boxes, classes=None, **more):
    """Return instances that fill their boxes (top, left, bottom, right) except the pixel at the top left."""
    kept = []
    for top, left, bottom, right in boxes:
        pixels = np.ones((bottom - top, right - left), bool)
        pixels[0, 0] = False
        kept.append(Mask(pixels, (top, left)))
    classes = np.zeros(len(boxes), int) if classes is None else np.array(classes, int)
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "classes": classes, "masks": collect(kept)} | more


def found(*boxes, **more):
    return instances(*boxes, **({"scores": np.linspace(0.9, 0.5, len(boxes))} | more))


def annotated(*boxes, **more):
    flags = {name: np.zeros(len(boxes), bool) for name in ("crowd", "difficult")}
    return instances(*boxes, **(flags | more))


def blend(colour):
    return (OPACITY * np.array(colour) + (1 - OPACITY) * GREY).round().tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 60))
def test_neighbours_have_different_colours(seed, count):
    rng = np.random.default_rng(seed)
    corner, sides = rng.uniform(0, 100, (count, 2)), rng.uniform(1, 15, (count, 2))
    boxes = np.concatenate([corner, corner + sides], -1)
    colours = choose_colours(boxes)
    np.testing.assert_array_equal(colours, choose_colours(boxes))
    for i, j in zip(*np.triu_indices(count, 1), strict=True):
        gap = np.maximum(boxes[i, :2] - boxes[j, 2:], boxes[j, :2] - boxes[i, 2:]).max()
        assert colours[i] != colours[j] or gap >= REACH


def test_grid_of_touching_boxes_uses_all_distinct_colours_and_no_others():
    corner = np.stack(np.meshgrid(np.arange(20), np.arange(20), indexing="ij"), -1).reshape(-1, 2) * 10.0
    colours = choose_colours(np.concatenate([corner, corner + 10], -1))
    counts = np.bincount(colours)
    assert len(counts) <= len(OKABE_ITO) and counts.min() > 30
    heap = choose_colours(np.tile([0.0, 0, 9, 9], (12, 1)))
    assert sorted(heap) == list(range(12))


def test_a_mask_is_translucent_inside_a_contour_on_a_grey_image():
    drawn = draw_instances(PURPLE, instances((100, 200, 300, 260)), ["cell"])
    colour = OKABE_ITO[0]
    assert drawn.shape == PURPLE.shape and drawn[10, 10].tolist() == [GREY] * 3
    assert drawn[200, 200].tolist() == drawn[299, 230].tolist() == drawn[200, 259].tolist() == list(colour)
    assert drawn[200, 230].tolist() == blend(colour)
    assert drawn[100, 200].tolist() == drawn[200, 199].tolist() == drawn[300, 230].tolist() == [GREY] * 3
    line = np.flatnonzero(shares(drawn[200], colour))
    assert line.tolist() == [200, 201, 258, 259]  # the line has two pixels for a side of 60


def test_contour_of_a_small_object_is_thin():
    drawn = draw_instances(PURPLE, found((100, 200, 110, 212)), ["cell"])
    assert np.flatnonzero(shares(drawn[105], OKABE_ITO[0])).tolist() == [200, 211]
    assert shares(drawn, (255, 255, 255)).sum() == 0  # the score has no room


def test_small_objects_are_drawn_over_large_ones():
    boxes = (100, 100, 400, 400), (200, 200, 250, 250)
    for order in ((0, 1), (1, 0)):
        drawn = draw_instances(PURPLE, found(*(boxes[k] for k in order)), ["cell"])
        small = drawn[200, 225].tolist()
        assert tuple(small) in OKABE_ITO and small != drawn[100, 250].tolist() and (drawn[249, 225] == small).all()


def written(drawn):
    """Count the pixels of ink. No other pixels are black or white."""
    return (shares(drawn, (0, 0, 0)) | shares(drawn, (255, 255, 255))).sum()


@pytest.mark.parametrize(("names", "scored", "said"), [(1, False, False), (1, True, True), (2, False, True)])
def test_one_class_is_not_named(names, scored, said):
    rows = (found if scored else instances)((100, 100, 300, 300), (100, 400, 300, 600), classes=[0, names - 1])
    assert (written(draw_instances(PURPLE, rows, ["cell", "debris"][:names])) > 20) == said


def test_names_do_not_hide_other_names_or_neighbours():
    alone = found((100, 100, 150, 150), scores=np.full(1, 0.88))
    labelled = draw_instances(PURPLE, alone, ["cell"])
    # Above the object, because it has no room inside.
    assert written(labelled[60:100]) > 10 and not written(labelled[100:])
    crowded = [(y, x, y + 50, x + 50) for y in range(100, 559, 51) for x in range(100, 559, 51)]
    drawn = draw_instances(PURPLE, found(*crowded), ["cell"])
    assert written(drawn[:100]) > 10 and not written(drawn[100:558])
    same = draw_instances(PURPLE, found(*[(100, 100, 300, 300)] * 9), ["cell"])
    for rows, some in ((slice(75, 100), 1), (slice(100, 125), 1), (slice(125, 300), 0), (slice(300, 325), 1)):
        assert (written(same[rows]) > 10) == some  # above, inside at the top, and below; the other six have no name


@pytest.mark.parametrize("box", [(0, 0, 90, 90), (610, 810, 700, 900), (0, 400, 700, 520)])
def test_names_stay_inside_the_picture(box):
    assert written(draw_instances(PURPLE, found(box, classes=[1]), ["cell", "debris"])) > 20


def test_mask_without_pixels_shows_its_box():
    rows = found((100, 200, 120, 240)) | {"masks": collect([Mask(np.zeros((1, 1), bool))])}
    drawn = draw_instances(PURPLE, rows, ["cell"])
    assert shares(drawn[110], OKABE_ITO[0]).sum() == 2 and drawn[110, 220].tolist() == [GREY] * 3
    outside = draw_instances(PURPLE, rows | {"boxes": np.array([[-20.0, 5, -3, 9]])}, ["cell"])
    assert (outside == GREY).all()


def test_a_small_image_is_enlarged_with_its_masks():
    image = np.full((20, 32, 3), 90, np.uint8)
    drawn = draw_instances(image, instances((5, 8, 15, 20)), ["cell"])
    assert drawn.shape == (20 * 28, 32 * 28, 3)
    for y, x, inside in (
        (5 * 28, 9 * 28, 1),
        (5 * 28, 8 * 28, 0),
        (15 * 28 - 1, 20 * 28 - 1, 1),
        (15 * 28, 10 * 28, 0),
    ):
        assert (drawn[y, x].tolist() == list(OKABE_ITO[0])) == inside, (y, x)
    assert (draw_instances(image, found(), ["cell"]) == 90).all()


def test_comparison_pairs_truth_and_prediction_and_stripes_uncounted_objects():
    images = [np.full((*size, 3), 60, np.uint8) for size in ((448, 300), (224, 448))]
    plain, boxes = annotated((100, 100, 200, 200)), (100, 100, 200, 200)
    drawn = compare_instances(images, [plain] * 2, [found(boxes), found()], ["cell"])
    assert drawn.dtype == np.uint8
    colour, middle = OKABE_ITO[0], 36 + 448 // 2  # below the title, in the first row
    line = np.flatnonzero(shares(drawn[36 + 150], colour))
    assert len(line) == 2 * 2 * 2 and line[4] - line[0] == 448 + 10
    assert drawn[middle, 20 + (448 - 300) // 2 + 5].tolist() == [60] * 3
    fill = (OPACITY * np.array(colour) + (1 - OPACITY) * 60).round()
    below = drawn[36 + 448 + 10 :][:224]
    for half, filled in zip(np.split(below, [drawn.shape[1] // 2], 1), (True, False), strict=True):
        assert shares(half, colour).any() and shares(half, fill).any() == filled, "a missed object is not filled"
    flagged = [plain | {name: np.array([True])} for name in ("crowd", "difficult")]
    whole, *striped = (
        shares(compare_instances(images[:1], [truth], [found()], ["cell"]), fill).sum() for truth in (plain, *flagged)
    )
    assert 0.4 * whole < striped[0] == striped[1] < 0.6 * whole


def drawn_as(outcome, box=(100, 200, 300, 400)):
    return draw_instances(PURPLE, instances(box) | {"outcomes": np.array([outcome])}, ["cell"])


def test_outcomes_have_different_contours_and_fillings():
    colour = OKABE_ITO[0]
    hit, false_alarm, missed, not_counted = map(drawn_as, Outcome)
    lines, fills = zip(
        *(
            (shares(own, colour).sum(), shares(own, blend(colour)).sum())
            for own in (hit, false_alarm, missed, not_counted)
        ),
        strict=True,
    )
    assert lines[0] == lines[2] == lines[3] > 1000 and 0.4 * lines[0] < lines[1] < 0.6 * lines[0], "dashed"
    assert fills[2] == 0 < fills[3] < 0.6 * fills[0] and fills[1] == pytest.approx(fills[0], rel=0.02)
    marks = [own[280 // 2 + 40 : 220, 280:320].tobytes() for own in (hit, false_alarm, missed)]
    assert len(set(marks)) == 3
    bare = draw_instances(PURPLE, instances((100, 200, 300, 400)), ["cell"])
    assert not written(bare) and not written(not_counted) and min(map(written, (hit, false_alarm, missed))) > 20


def test_a_small_instance_has_no_mark():
    assert (
        written(drawn_as(Outcome.HIT, (100, 200, 110, 210))) == 0 < written(drawn_as(Outcome.HIT, (100, 200, 112, 212)))
    )


def test_legend_explains_that_a_colour_is_an_instance():
    rows = annotated((100, 100, 200, 200))
    texts = [text for _, text in INSTANCES.list_entries([rows], ["cell"], 0.25)]
    assert texts[0] == "a colour is one object" and len(texts) == 4
    assert [text for _, text in INSTANCES.list_entries([rows], ["cell"], None)] == texts[:1]


def test_hundreds_of_instances_are_drawn_in_seconds():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, (960, 1260), (400, 2))
    rows = found(*np.concatenate([corner, corner + rng.integers(8, 60, (400, 2))], -1).tolist())
    image, start = np.zeros((1000, 1300, 3), np.uint8), time.perf_counter()
    drawn = draw_instances(image, rows, ["cell"])
    assert time.perf_counter() - start < 4  # 0.15 s on an idle core
    assert drawn.shape == image.shape and all(shares(drawn, class_colour(k)).any() for k in range(len(OKABE_ITO)))
