"""Rows of YOLO's text (boxes, polygons, keypoints and oriented boxes), and malicious data files."""

import pathlib
import time

import numpy as np
import pytest

from errors import UserError
from input_pipeline.annotations.annotated_image import find_duplicates
from input_pipeline.annotations.yolo_data import DataFile, find_data_file, note_count, read_classes
from input_pipeline.annotations.yolo_text import Meaning, convert, find_meaning, is_simple, read_row


def rows(*values):
    return [(0, tuple(map(float, row))) for row in values]


def data(**content):
    return DataFile(pathlib.Path("data.yaml"), content)


def circle(centre, radius, count, turn=0.0):
    angles = turn + np.arange(count) / count * 2 * np.pi
    return (centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)).ravel().tolist()


ROOT = pathlib.Path("set")
SQUARE = (0.2, 0.2, 0.4, 0.2, 0.4, 0.4, 0.2, 0.4)


@pytest.mark.parametrize(
    "values",
    [
        rows((0.5, 0.5, 0.2, 0.2)),
        rows((0.05, 0.5, 0.4, 0.2), (0.1, 0.1, 0.3, 0.3)),
        rows(SQUARE, (0.5, 0.5, 0.2, 0.2)),
        rows(SQUARE),
        rows(SQUARE, (0.1, 0.1, 0.3, 0.1, 0.3, 0.2)),
        rows(*(circle((x, y), 0.1, 6) for x in (0.2, 0.4, 0.8) for y in (0.2, 0.4, 0.8))),
        rows(*(circle((x, 0.3), 0.1, 20, 2.0) for x in (0.2, 0.3))),
        rows((0.3, 0.3, 0.6, 0.3, 0.45, 0.6)),
        rows((0.1, 0.2, 0.4, 0.25, 0.5, 0.6, 0.15, 0.5)),
        rows((0, 0, 1, 0, 1, 1, 0, 1, 0, 0.5)),
        [],
    ],
)
def test_boxes_and_polygons_are_recognised(values):
    assert find_meaning(ROOT, values, None) == Meaning()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (rows((0.5, 0.5, 0.4, 0.4, 0.1, 0.1, 0.9, 0.9)), "2 keypoints: kpt_shape: [2, 2]"),
        (rows((0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.4, 0.6, 0.6, 0.4, 0.6)), "4 keypoints: kpt_shape: [4, 2]"),
        (rows((0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 2, 0.6, 0.4, 1)), "2 keypoints with visibility: kpt_shape: [2, 3]"),
        (rows((0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 2)), "1 keypoint with visibility: kpt_shape: [1, 3]"),
        (rows(*[(0.4, 0.4, 0.3, 0.3, 0.3, 0.5, 0.5, 0.3, 0.4, 0.45, 0.35, 0.3)] * 3), "4 keypoints"),
        (
            rows((0.5, 0.5, 0.4, 0.6, 0.6, 0.7), (0.4, 0.5, 0.4, 0.6, 0.3, 0.3)),
            "a box and 1 keypoint: kpt_shape: [1, 2]",
        ),
        (
            rows((0.5, 0.5, 0.4, 0.6, *[0.6, 0.7, 0.4, 0.3, 0.4, 0.7, 0.6, 0.3] * 17)),
            "68 keypoints: kpt_shape: [68, 2]",
        ),
        (rows(*[(0.5, 0.5, 0.4, 0.6, *[0.6, 0.7, 2, 0.4, 0.3, 1] * 35)] * 2), "70 keypoints with visibility"),
    ],
)
def test_keypoints_are_not_read_as_polygons(values, words):
    with pytest.raises(UserError) as caught:
        find_meaning(ROOT, values, None)
    assert str(caught.value).startswith("set: ")
    assert words in str(caught.value) and "kpt_shape: [keypoints, 2 or 3]" in str(caught.value)
    assert find_meaning(ROOT, values, data(task="segment")) == Meaning()


def test_boxes_with_keypoints_are_read_if_data_yaml_has_kpt_shape():
    row = read_row("1 0.5 0.5 0.2 0.4 0.4 0.4 2 0.6 0.4 2", range(2))
    meaning = find_meaning(ROOT, [row], data(kpt_shape=[2, 3]))
    found = convert(row, {0: 0, 1: 1}, meaning)
    assert found.box == (0.3, 0.4, 0.7, 0.6) and found.segmentation == () and found.label == 1
    assert "keypoints, which are ignored" in meaning.note()
    with pytest.raises(UserError, match="4 for the box and 6 more"):
        convert(rows((0.5, 0.5, 0.2, 0.2, 0.1, 0.1))[0], {0: 0}, meaning)
    assert convert(rows((0.5, 0.5, 0.2, 0.2))[0], {0: 0}, meaning).box == (0.4, 0.4, 0.6, 0.6), "a box alone is valid"
    with pytest.raises(UserError, match="kpt_shape is"):
        find_meaning(ROOT, [row], data(kpt_shape=17))
    with pytest.raises(UserError, match="task is pose, but kpt_shape is missing"):
        find_meaning(ROOT, [row], data(task="pose"))


@pytest.mark.parametrize(
    ("fifths", "words"),
    [
        ((0.9, 0.3), "may be a confidence: in that case remove it; or the angle"),
        ((0.5, 1.57), "fifth is probably the angle"),
        ((45,), "fifth is probably the angle"),
    ],
)
def test_fifth_number_that_may_be_an_angle_raises_an_error(fifths, words):
    """Without the check, an oriented box would be read as an axis-aligned one."""
    values = [read_row(f"0 0.5 0.5 0.4 0.2 {fifth}", range(1)) for fifth in fifths]
    with pytest.raises(UserError, match=words):
        find_meaning(ROOT, values, None)


def test_long_polygons_are_read_as_polygons():
    start = time.monotonic()
    long = rows(*(circle((x, 0.5), 0.3, 2000) for x in np.linspace(0.3, 0.5, 20)))
    assert find_meaning(ROOT, long, None) == Meaning() and time.monotonic() - start < 5


def test_oriented_boxes_become_axis_aligned_boxes_without_masks():
    turned = [circle((0.4, 0.4), 0.2, 4, turn) for turn in (0.3, 0.5, 0.9)]
    meaning = find_meaning(ROOT, rows(*turned), None)
    assert meaning == Meaning(oriented=True) and "upright boxes" in meaning.note()
    found = convert(rows(turned[0])[0], {0: 0}, meaning)
    assert found.segmentation == ()
    points = np.reshape(turned[0], (4, 2))
    np.testing.assert_array_equal(found.box, [*points.min(0)[::-1], *points.max(0)[::-1]])
    assert find_meaning(ROOT, rows(*turned), data(task="segment")) == Meaning()
    assert find_meaning(ROOT, rows(SQUARE), data(task="obb")) == Meaning(oriented=True)


@pytest.mark.parametrize("kind", ["left, top, right, bottom", "left, top, width, height"])
def test_boxes_not_stored_as_centres_raise_an_error(kind):
    low = np.random.default_rng(0).uniform(0.0, 0.3, (30, 2))
    size = np.full((30, 2), 0.65)
    values = np.concatenate([low, low + size if "right" in kind else size], 1)
    with pytest.raises(UserError, match="look like left, top"):
        find_meaning(ROOT, rows(*values), None)


def test_polygon_is_simple_if_its_edges_do_not_cross():
    assert is_simple(np.reshape(SQUARE, (4, 2)))
    assert not is_simple(np.array([(0, 0), (1, 1), (1, 0), (0, 1)], float))
    assert not is_simple(np.array([(0, 0), (1, 1), (2, 2)], float)), "without an area"
    assert is_simple(np.reshape(circle((0.5, 0.5), 0.3, 30), (-1, 2)))


NINE = ",".join(["*{}"] * 9)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{NINE.replace('{}', before)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{NINE.replace('{}', before)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{BOMB}names: *i", "aliases"),
        (f"{BOMB}names: [*i]", "aliases"),
        (MERGES, "aliases"),
        ("names: " + "[" * 100_000, "nested more than"),
        ("{a: " * 100_000, "nested more than"),
        ("names: [[a, b], [c]]", "0 is "),
    ],
)
def test_data_files_that_would_fill_the_memory_raise_an_error(tmp_path, text, words):
    (tmp_path / "data.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        read_classes(tmp_path, find_data_file(tmp_path))
    assert words in str(caught.value) and "data.yaml" in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000 and time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("names: {'0': fox, '1': boar}", "has its numbers in quotes; remove"),
        ("nc: 2", "has no `names`"),
    ],
)
def test_unusable_class_names_raise_an_error(tmp_path, text, words):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_classes(tmp_path, find_data_file(tmp_path))


def test_wrong_number_of_classes_gives_a_remark():
    expected = ["data.yaml: nc is 5, but `names` has 2 classes, which are used"]
    assert note_count(data(nc=5), {0: "fox", 1: "boar"}) == expected
    assert note_count(data(nc=2), {0: "fox", 1: "boar"}) == note_count(data(nc=8), {2: "fox", 7: "boar"}) == []
    assert note_count(data(), {0: "fox"}) == note_count(None, {0: "fox"}) == []


def test_rows_with_equal_boxes_but_other_keypoints_are_not_duplicates():
    box = (0.5, 0.5, 0.2, 0.4)
    listed = rows((*box, 0.4, 0.4), (*box, 0.6, 0.4), (*box, 0.4, 0.4), box)
    objects = [convert(row, {0: 0}, Meaning(keypoints=2)) for row in listed]
    assert find_duplicates(objects) == {2: 0}
    turned = rows((0.2, 0.1, 0.3, 0.2, 0.2, 0.3, 0.1, 0.2), (0.1, 0.1, 0.3, 0.1, 0.3, 0.3, 0.1, 0.3))
    objects = [convert(row, {0: 0}, Meaning(oriented=True)) for row in turned]
    assert objects[0].box == objects[1].box and find_duplicates(objects) == {}


def test_class_numbers_may_have_gaps(tmp_path):
    (tmp_path / "data.yaml").write_text("names: {7: boar, 2: fox}")
    assert list(read_classes(tmp_path, find_data_file(tmp_path)).items()) == [(2, "fox"), (7, "boar")]
    with pytest.raises(UserError, match=r"class 3 is unknown; the classes are 2 \(2, 7\)"):
        read_row("3 0.5 0.5 0.1 0.1", {2: "fox", 7: "boar"})


def test_file_of_class_names_may_be_among_the_labels(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "classes.txt").write_text("fox\nboar\n")
    assert read_classes(tmp_path, None) == {0: "fox", 1: "boar"}
    (tmp_path / "val/classes.txt").write_text("boar\nfox\n")
    with pytest.raises(UserError, match="val/classes.txt name different classes"):
        read_classes(tmp_path, None)
    (tmp_path / "classes.txt").write_text("elk\n")
    assert read_classes(tmp_path, None) == {0: "elk"}


def test_data_file_may_have_another_name(tmp_path):
    (tmp_path / "my.yaml").write_text("names: [a]")
    (tmp_path / "hyp.yaml").write_text("lr: 1")
    assert find_data_file(tmp_path).path.name == "my.yaml"
