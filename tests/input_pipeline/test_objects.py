"""Objects move with the image. Objects with a small visible part, or above the rows of a batch, are dropped."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from input_pipeline import objects
from input_pipeline.augment import geometry

WHOLE = (0, 0, 40, 60)  # window of the whole image, 40x60


def make(boxes, **fields) -> objects.Objects:
    """Make objects whose class is their number, without crowd and difficult flags unless `fields` set them."""
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    count = len(boxes)
    made = dict(classes=np.arange(count), crowd=np.zeros(count), difficult=np.zeros(count), area=objects.area(boxes))
    made = {name: np.asarray(fields.pop(name, values)) for name, values in made.items()}
    none = objects.none()
    return {"boxes": boxes} | {name: values.astype(none[name].dtype) for name, values in made.items()} | fields


def test_boxes_under_known_maps_equal_expected_boxes():
    boxes = np.array([[2.0, 3.0, 10.0, 8.0]])
    mirror = geometry.about((30, 20), geometry.scaling(-1, 1))
    np.testing.assert_allclose(objects.map_boxes(boxes, mirror), [[2, 52, 10, 57]])
    np.testing.assert_allclose(objects.map_boxes(boxes, geometry.scaling(2, 0.5)), [[1, 6, 5, 16]])
    np.testing.assert_allclose(objects.map_boxes(boxes, geometry.translation(-1, 4)), [[6, 2, 14, 7]])
    # A rotation by 90 degrees clockwise maps (x, y) of an image with height 40 to (40 - y, x).
    turn = geometry.translation(40, 0) @ geometry.rotation(90)
    np.testing.assert_allclose(objects.map_boxes(boxes, turn), [[3, 30, 8, 38]])
    # A square with side 8 around (6, 6), rotated by 45 degrees, extends 4 sqrt(2) to each side.
    turn, reach = geometry.about((6, 6), geometry.rotation(45)), 4 * 2**0.5
    near, far = 6 - reach, 6 + reach
    np.testing.assert_allclose(objects.map_boxes(np.array([[2.0, 2, 10, 10]]), turn), [[near, near, far, far]])
    assert objects.map_boxes(np.zeros((0, 4)), turn).shape == (0, 4)


def test_overlap_equals_known_values():
    boxes = np.array([[0.0, 0, 4, 4], [0, 0, 0, 0]])
    others = np.array([[0.0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [0, 0, 0, 0]])
    np.testing.assert_allclose(objects.overlap(boxes, others), [[1, 4 / 28, 0, 0], [0, 0, 0, 0]])
    assert objects.overlap(boxes, np.zeros((0, 4))).shape == (2, 0)


def test_objects_with_a_small_visible_part_are_dropped():
    """The first object lies half beyond the right edge of the output, the second by 90%, and the third completely."""
    made = make([[0, 15, 10, 25], [0, 19, 10, 29], [0, 20, 10, 30]], crowd=[0, 0, 0], difficult=[0, 1, 1])
    for least, kept in ((0.0, [0, 1]), (0.1, [0, 1]), (0.11, [0]), (0.5, [0]), (0.51, [])):
        followed = objects.follow(made, geometry.scaling(2, 3), WHOLE, (30, 40), least)
        np.testing.assert_allclose(followed["boxes"], np.array([[0, 30, 30, 40], [0, 38, 30, 40]])[kept])
        for name in ("classes", "crowd", "difficult", "area"):
            np.testing.assert_array_equal(followed[name], made[name][kept], err_msg=name)


def test_crowds_stay_with_any_visible_part():
    """The region of a crowd must not be trained as background."""
    made = make([[0, 19, 10, 29], [0, 19, 10, 29], [0, 20, 10, 30]], crowd=[0, 1, 1])
    followed = objects.follow(made, geometry.scaling(2, 3), WHOLE, (30, 40), 0.5)
    np.testing.assert_allclose(followed["boxes"], [[0, 38, 30, 40]])
    assert followed["crowd"].tolist() == [True]


@given(st.tuples(st.integers(1, 700), st.integers(1, 700)), st.tuples(st.integers(8, 300), st.integers(8, 300)))
def test_whole_objects_stay_if_min_visible_is_one(source, output):
    matrix = geometry.fit(source, output, "stretch")
    box = [0, 0, *source]
    assert len(objects.follow(make([box]), matrix, tuple(box), output, 1.0)["boxes"]) == 1


def test_objects_outside_the_window_are_dropped():
    made = make([[2, 2, 6, 10], [2, 10, 6, 14], [5, 20, 9, 30]])
    followed = objects.follow(made, geometry.IDENTITY, (4, 0, 40, 10), (40, 60))
    np.testing.assert_array_equal(followed["boxes"], [[4, 2, 6, 10]])
    # A box that is clipped to a line is dropped, also when it is rotated.
    turned = objects.follow(made, geometry.about((10, 10), geometry.rotation(30)), (4, 0, 40, 10), (40, 60))
    np.testing.assert_array_equal(turned["classes"], [0])


def test_box_beyond_the_image_is_clipped_to_it():
    followed = objects.follow(make([[-3, 50, 20, 70]]), geometry.translation(0, 5), WHOLE, (50, 80))
    np.testing.assert_array_equal(followed["boxes"], [[5, 50, 25, 60]])


affine = st.builds(
    lambda x, y, angle, right, down: (
        geometry.translation(right, down) @ geometry.rotation(angle) @ geometry.scaling(x, y)
    ),
    *(st.floats(0.05, 4) | st.floats(-4, -0.05), st.floats(0.05, 4), st.floats(-180, 180)),
    *(st.floats(-60, 60), st.floats(-60, 60)),
)


@given(arrays(np.float64, (5, 4), elements=st.floats(-10, 70)), affine, st.sampled_from([0.0, 0.3]))
def test_boxes_stay_inside_and_have_area(corners, matrix, least):
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    followed = objects.follow(make(boxes), matrix, (0, 0, 40, 50), (32, 24), least)
    row = objects.pad(followed, 5)
    kept = row["boxes"][row["valid"]]
    assert (kept >= 0).all() and (kept <= (32, 24, 32, 24)).all()
    assert (objects.area(kept) > 0).all()
    assert row["boxes_lost"] == 0 and (row["boxes"][~row["valid"]] == 0).all()


@given(affine, st.floats(0, 1), st.floats(0, 1))
def test_box_contains_the_points_of_its_object(matrix, down, across):
    box = np.array([[3.0, 7.0, 20.0, 31.0]])
    x, y, _ = matrix @ [7 + across * 24, 3 + down * 17, 1]
    top, left, bottom, right = objects.map_boxes(box, matrix)[0]
    assert top - 1e-6 <= y <= bottom + 1e-6 and left - 1e-6 <= x <= right + 1e-6


def test_largest_objects_fill_the_rows_in_their_order():
    made = make([[0, 0, 2, 2], [0, 0, 5, 5], [0, 0, 1, 1], [0, 0, 3, 3], [0, 0, 2, 2]], crowd=[0, 1, 0, 0, 1])
    row = objects.pad(made, 3)
    np.testing.assert_array_equal(row["classes"], [0, 1, 3])
    np.testing.assert_array_equal(row["crowd"], [False, True, False])
    np.testing.assert_array_equal(row["boxes"], [[0, 0, 2, 2], [0, 0, 5, 5], [0, 0, 3, 3]])
    assert row["boxes_lost"] == 2 and row["valid"].all()
    row = objects.pad(made, 7)
    np.testing.assert_array_equal(row["valid"], [True] * 5 + [False] * 2)
    assert row["boxes_lost"] == 0
    for name in ("boxes", "classes", "crowd", "difficult"):
        assert not row[name][5:].any(), name


def test_row_without_objects_is_valid():
    for none in (objects.none(), objects.pick(make([[0, 0, 1, 1]]), np.array([False]))):
        row = objects.pad(none, 4)
        assert not any(row[name].any() for name in row) and row["boxes"].shape == (4, 4)
    assert {name: values.dtype for name, values in objects.none().items()} == {
        name: values.dtype for name, values in make([[0, 0, 1, 1]]).items()
    }


def test_invalid_boxes_are_recognised():
    boxes = [
        [0, 0, 1, 1],
        [0, 0, 0, 1],
        [2, 0, 1, 1],
        [np.nan, 0, 1, 1],
        [0, 0, np.inf, 1],
        [-3, -3, 0, 2],
        [9, 9, 40, 40],
    ]
    keep, reasons = objects.clean(np.array(boxes, np.float64), (20, 30))
    assert keep.tolist() == [True, False, False, False, False, False, True]
    assert reasons == ["", "zero area", "reversed", *["not a finite number"] * 2, "outside the image", ""]
    keep, reasons = objects.clean(np.zeros((0, 4)), (20, 30))
    assert keep.shape == (0,) and keep.dtype == bool and reasons == []
