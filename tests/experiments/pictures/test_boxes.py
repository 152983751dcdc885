"""Pictures of boxes have every colour, name, mark and line in the right place."""

import numpy as np
import pytest

from experiments.pictures.boxes import BOXES, compare_boxes, draw_boxes
from experiments.pictures.outcomes import Outcome
from experiments.pictures.pairs import TILE
from experiments.pictures.palette import class_colour, luminance, palette
from experiments.pictures.plots import plot_precision_recall
from experiments.pictures.scores import keep_confident
from tests.experiments.pictures.colours import shares
from tests.experiments.pictures.test_plots import curve, legend_of, plotted

GREY = np.full((450, 600, 3), 128, np.uint8)


def drawn_on_grey(*boxes, classes=None, scores=None, names=("cat", "dog", "owl"), outcomes=None):
    rows = {"boxes": np.array(boxes, float).reshape(-1, 4)}
    rows["classes"] = np.arange(len(boxes)) if classes is None else np.array(classes)
    if outcomes is not None:
        rows["outcomes"] = np.array(outcomes)
    if scores is not None:
        rows = keep_confident(rows | {"scores": np.array(scores, np.float32)}, 0.25)
    return draw_boxes(GREY, rows, names)


def test_box_is_a_frame_in_the_colour_of_its_class_inside_its_edges():
    drawn = drawn_on_grey((100.2, 150, 300, 449.6), classes=[1])
    assert drawn.shape == GREY.shape and (GREY == 128).all()
    for y, x in ((200, 150), (200, 449), (299, 300), (100, 400), (200, 152), (297, 300)):
        assert drawn[y, x].tolist() == palette()[1].tolist(), (y, x)
    assert (drawn[104:296, 154:446] == 128).all()
    outside = drawn.copy()
    outside[99:302, 149:452] = 128
    outside[70:100, 150:300] = 128  # the name is drawn on the box
    assert (outside == 128).all()
    assert shares(drawn[70:99, 150:300], palette()[1]).sum() > 200


@pytest.mark.parametrize("index", [0, 5, 6, 8, 40, 79])
def test_names_and_frames_are_visible_on_any_background(index):
    # The name is black or white on the class's colour, and the frame has a border of that ink.
    drawn = drawn_on_grey((100, 100, 300, 300), classes=[index], names=[f"class {k}" for k in range(80)])
    inks = [shares(drawn, ink).sum() for ink in ((0, 0, 0), (255, 255, 255))]
    chosen = int(np.argmax(inks))
    assert inks[chosen] > 800 and inks[1 - chosen] == 0
    light = luminance(palette()[index])
    assert ((light + 0.05) / 0.05, 1.05 / (light + 0.05))[chosen] > 4.5


def frame_of(outcome):
    """Return the pixels with the frame's colour, without the rows of its name."""
    drawn = drawn_on_grey((100, 100, 300, 400), outcomes=[outcome])
    return shares(drawn, palette()[0])[120:]


def test_outcomes_have_different_frames():
    """Each frame except the complete one has a part of its pixels, with different lengths."""
    whole, dashed, corners, dotted = map(frame_of, Outcome)
    for part, low, high in ((dashed, 0.4, 0.65), (corners, 0.3, 0.6), (dotted, 0.2, 0.5)):
        assert not (part & ~whole).any() and low * whole.sum() < part.sum() < high * whole.sum()
    lengths = []
    for part in (whole, dashed, corners, dotted):
        lower = np.flatnonzero(np.diff(part[178].astype(int), prepend=0))  # row 298, in the lower side
        lengths.append((lower[1::2] - lower[::2]).tolist())
    assert lengths[0] == [300] and lengths[2] == [75, 75]
    assert min(lengths[1][:-1]) >= 9 and max(lengths[3]) == 3


@pytest.mark.parametrize("side", [4, 12, 24, 40])
def test_outcomes_of_small_boxes_look_different(side):
    """All pictures are different, by their frames or by their marks."""
    drawn = [drawn_on_grey((200, 200, 200 + side, 200 + side), outcomes=[outcome]).tobytes() for outcome in Outcome]
    assert len(set(drawn)) == len(Outcome)


@pytest.mark.parametrize("index", [0, 6])
def test_outcomes_have_different_marks_and_the_class_is_readable(index):
    names, box = [f"class {k}" for k in range(7)], (100, 100, 300, 400)
    plain = drawn_on_grey(box, classes=[index], names=names)
    name = shares(plain, class_colour(index))[:99]
    width = np.flatnonzero(name.any(0))
    tags = []
    for outcome in Outcome:
        drawn = drawn_on_grey(box, classes=[index], names=names, outcomes=[outcome])
        columns = np.flatnonzero(shares(drawn, class_colour(index))[:99].any(0))
        mark = len(columns) - len(width)
        assert (mark > 10) == (outcome != Outcome.NOT_COUNTED)
        # The complete name is to the right of the mark.
        np.testing.assert_array_equal(drawn[:99, 104 + mark : 101 + len(columns)], plain[:99, 104 : 101 + len(width)])
        tags.append(drawn[70:99, 100 : 100 + max(mark, 1)].tobytes())
    assert len(set(tags)) == len(Outcome)


def test_weak_detections_are_not_drawn_and_scores_are():
    boxes = (100, 100, 300, 300), (100, 350, 300, 550)
    both = drawn_on_grey(*boxes, scores=[0.9, 0.25])
    first = drawn_on_grey(*boxes, scores=[0.9, 0.2])
    assert shares(both, palette()[1]).any() and not shares(first, palette()[1]).any()
    np.testing.assert_array_equal(first[:, :340], both[:, :340])
    assert (drawn_on_grey(*boxes, scores=[0.8, 0.2]) != first).any()
    np.testing.assert_array_equal(drawn_on_grey(*boxes, scores=[0.1, 0.2]), GREY)


def test_names_do_not_hide_other_names():
    names = ["one", "two", "three", "four"]
    drawn = drawn_on_grey(*[(200, 200, 300, 330)] * 4, scores=[0.5, 0.9, 0.8, 0.7], names=names)
    alone = drawn_on_grey((200, 200, 300, 330), scores=[0.9], classes=[1], names=names)
    tag = shares(alone, palette()[1])
    tag[200:300] = False
    np.testing.assert_array_equal(drawn[tag], alone[tag])  # the name with the highest score keeps its place
    for index in range(4):  # each is complete, so it has about as many pixels of its colour
        assert shares(drawn, palette()[index]).sum() > 0.8 * tag.sum()


@pytest.mark.parametrize(
    "box", [(-50, -60, 900, 800), (0, 0, 450, 600), (-9, 560, 12, 640), (449, 599, 450, 600), (5, 5, 5, 5)]
)
def test_names_stay_in_the_picture(box):
    drawn = drawn_on_grey(box, scores=[0.5], classes=[2])
    assert shares(drawn, palette()[2]).sum() > 300
    assert (drawn.sum(-1) < 100).sum() > 100  # the text is black


def test_small_image_is_enlarged_and_boxes_are_optional():
    image = np.zeros((20, 32, 3), np.uint8)
    none = {"boxes": np.zeros((0, 4)), "classes": np.zeros(0, int)}
    assert draw_boxes(image, none | {"scores": np.zeros(0)}, ["a"]).shape == (20 * 14, 32 * 14, 3)
    np.testing.assert_array_equal(draw_boxes(GREY, none, ["a"]), GREY)
    drawn = draw_boxes(image, {"boxes": np.array([[10.0, 10, 18, 20]]), "classes": np.array([0])}, ["a"])
    assert drawn[17 * 14, 10 * 14].tolist() == palette()[0].tolist()
    assert not drawn[: 8 * 14].any()


def boxed(*boxes, classes, **more):
    flags = {name: np.zeros(len(boxes), bool) for name in ("crowd", "difficult")}
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "classes": np.array(classes, int)} | flags | more


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_comparison_shows_each_truth_next_to_its_prediction(count):
    sizes = [(100, 200), (300, 150), (64, 64), (30, 448), (1000, 900), (448, 448), (77, 200)][:count]
    images = [np.full((*size, 3), (30, 100 + 10 * index, 200), np.uint8) for index, size in enumerate(sizes)]
    # The box covers the same part of each image, 40 % to 90 % of its height and 20 % to 80 % of its width.
    places = [np.array([0.4 * h, 0.2 * w, 0.9 * h, 0.8 * w]) for h, w in sizes]
    truths = [boxed(place, classes=[0]) for place in places]
    # The first detection is a hit, the second one is weak.
    predictions = [boxed(place, place, classes=[0, 3], scores=np.array([0.8, 0.1], np.float32)) for place in places]
    drawn = compare_boxes(images, truths, predictions, ["cat", "dog", "owl", "fox"], 0.25)
    assert drawn.dtype == np.uint8
    for image, size in zip(images, sizes, strict=True):
        height, width = (round(side * TILE / max(size)) for side in size)
        y = np.flatnonzero(shares(drawn, image[0, 0]).any(1))
        x = np.flatnonzero(shares(drawn, image[0, 0])[y[-1]])  # the last line of the tiles, below the boxes
        assert y[-1] - y[0] + 1 == height  # the shape does not change
        assert len(x) == 2 * width and x[width] - x[0] == TILE + 10  # two tiles, side by side
        for start in (x[0], x[width]):
            line = y[0] + round(0.9 * height) - 2  # on the lower side of the box
            for column in (round(0.2 * width) + 1, round(0.8 * width) - 2):
                assert drawn[line, start + column].tolist() == palette()[0].tolist()
    for index, shown in enumerate((True, False, False, False)):  # also in the legend; a score of 0.1 is too low
        assert shares(drawn, palette()[index]).any() == shown


def split(drawn):
    """Split the comparison of one square example into ground truth, prediction and legend."""
    return drawn[36 : 36 + TILE, 20 : 20 + TILE], drawn[36 : 36 + TILE, 30 + TILE : -20], drawn[36 + TILE :]


def test_comparison_draws_uncounted_objects_with_dots():
    image, box = np.full((448, 448, 3), 128, np.uint8), (50, 50, 400, 400)
    nothing = boxed(classes=[], scores=np.zeros(0))
    flags = {}, {"crowd": np.array([True])}, {"difficult": np.array([True])}
    pictures = [
        split(compare_boxes([image], [boxed(box, classes=[0]) | flag], [nothing], ["cat"], 0.25)) for flag in flags
    ]
    amounts = [shares(truth, palette()[0]).sum() for truth, _, _ in pictures]
    assert amounts[1] == amounts[2] < 0.75 * amounts[0]
    missed = [shares(prediction, palette()[0]).any() for _, prediction, _ in pictures]
    assert missed == [True, False, False], "uncounted objects cannot be missed"
    assert pictures[0][2].tobytes() != pictures[1][2].tobytes(), "the legend explains the dots"


def test_comparison_distinguishes_hits_false_alarms_and_missed_objects():
    image, names = np.full((448, 448, 3), 128, np.uint8), ["cat", "dog"]
    boxes = [(60, 20, 200, 200), (60, 240, 200, 430), (260, 20, 420, 200)]
    truth = boxed(*boxes, classes=[0, 0, 0])
    # The first object is found, the second one has another class, and the third one is not found.
    found = boxed(*boxes[:2], classes=[0, 1], scores=np.array([0.9, 0.8]))
    tiles = split(compare_boxes([image], [truth], [found], names, 0.25))
    whole, drawn = (shares(tile, palette()[0]) for tile in tiles[:2])
    low = slice(120, 198)  # rows of the first two boxes, below their names
    assert (drawn[low, :220] == whole[low, :220]).all(), "a hit has a complete frame"
    assert 0 < drawn[low, 220:].sum() < 0.7 * whole[low, 220:].sum(), "a missed object has only corners"
    dog = shares(tiles[1], palette()[1])
    assert 0 < dog[low, 220:].sum() < whole[low, 220:].sum() and not dog[:, :220].any()
    missed = drawn[300:, :220].sum()
    assert 0 < missed < 0.6 * whole[300:, :220].sum()


def test_legend_explains_outcomes_overlap_and_score():
    image = np.full((448, 448, 3), 128, np.uint8)
    rows = boxed((60, 20, 200, 200), classes=[0], scores=np.ones(1))
    entries = [text for _, text in BOXES.list_entries([rows], ["cat"], 0.3)]
    assert entries[0] == "cat" and [text.partition(":")[0] for text in entries[1:]] == ["hit", "false alarm", "missed"]
    assert "score 0.3 or more" in entries[1] and "IoU 0.5 or more" in entries[1]
    assert [text for _, text in BOXES.list_entries([rows], ["cat"], None)] == ["cat"], "without predictions"
    drawn, other = (split(compare_boxes([image], [rows], [rows], ["cat"], score))[2] for score in (0.3, 0.4))
    assert drawn.tobytes() != other.tobytes()


def test_class_colours_never_equal_the_grey_of_no_class():
    assert [class_colour(index) for index in range(255)] == [tuple(colour) for colour in palette()[:255].tolist()]
    assert [class_colour(index) for index in range(255, 1203)] == [
        class_colour(index % 255) for index in range(255, 1203)
    ]
    names = [f"class {index}" for index in range(1203)]
    image, box = np.full((448, 448, 3), 128, np.uint8), (50, 50, 400, 400)
    nothing = boxed(classes=[], scores=np.zeros(0))
    for index in (255, 256, 1202):
        drawn = draw_boxes(image, {"boxes": np.array([box]), "classes": np.array([index])}, names)
        assert drawn[200, 51].tolist() == list(class_colour(index))
        legend = compare_boxes([image], [boxed(box, classes=[index])], [nothing], names)[36 + 448 :]
        assert shares(legend, class_colour(index)).sum() == 18 * 18
        curves = [curve(0.5, 0.7) if k == index else None for k in range(1203)]
        drawn = plot_precision_recall(curves, [0.35] * 1203, names, "IoU")
        assert plotted(drawn, 0.3, 0.5) == list(class_colour(index))
        assert shares(legend_of(drawn), class_colour(index)).any()
