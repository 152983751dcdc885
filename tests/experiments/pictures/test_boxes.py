"""Pictures of boxes: every colour, name and line stands where it should be."""

import numpy as np
import pytest

from experiments.pictures import boxes as pictures
from experiments.pictures.boxes import compare_boxes, draw_boxes
from experiments.pictures.palette import class_colour, luminance, palette
from experiments.pictures.plots import plot_precision_recall
from experiments.pictures.scores import keep_confident
from tests.experiments.pictures.colours import shares
from tests.experiments.pictures.test_plots import curve, legend_of, plotted

GREY = np.full((450, 600, 3), 128, np.uint8)


def drawn_on_grey(*boxes, classes=None, scores=None, names=("cat", "dog", "owl"), dashed=None):
    boxes = np.array(boxes, float).reshape(-1, 4)
    classes = np.arange(len(boxes)) if classes is None else np.array(classes)
    if scores is None:
        return draw_boxes(GREY, boxes, classes, None, names, dashed)
    shown = keep_confident({"boxes": boxes, "classes": classes, "scores": np.array(scores, np.float32)}, 0.25)
    return draw_boxes(GREY, shown["boxes"], shown["classes"], shown["scores"], names, dashed)


def test_a_box_is_a_frame_in_its_classs_colour_inside_its_edges():
    drawn = drawn_on_grey((100.2, 150, 300, 449.6), classes=[1])
    assert drawn.shape == GREY.shape and (GREY == 128).all()
    for y, x in ((200, 150), (200, 449), (299, 300), (100, 400), (200, 152), (297, 300)):
        assert drawn[y, x].tolist() == palette()[1].tolist(), (y, x)
    assert (drawn[104:296, 154:446] == 128).all()
    outside = drawn.copy()
    outside[99:302, 149:452] = 128
    outside[70:100, 150:300] = 128  # the name stands on the box
    assert (outside == 128).all()
    assert shares(drawn[70:99, 150:300], palette()[1]).sum() > 200


@pytest.mark.parametrize("index", [0, 5, 6, 8, 40, 79])
def test_names_and_frames_stand_out_on_any_background(index):
    # The name is black or white on the class's colour, and the frame has a border of that ink.
    drawn = drawn_on_grey((100, 100, 300, 300), classes=[index], names=[f"class {k}" for k in range(80)])
    inks = [shares(drawn, ink).sum() for ink in ((0, 0, 0), (255, 255, 255))]
    chosen = int(np.argmax(inks))
    assert inks[chosen] > 800 and inks[1 - chosen] == 0
    light = luminance(palette()[index])
    assert ((light + 0.05) / 0.05, 1.05 / (light + 0.05))[chosen] > 4.5


def test_a_dashed_frame_is_about_half_there():
    box = (100, 100, 300, 400)
    whole, broken = (
        shares(drawn_on_grey(box, dashed=np.array([flag])), palette()[0])[120:280] for flag in (False, True)
    )
    assert 0.35 * whole.sum() < broken.sum() < 0.65 * whole.sum()
    assert not (broken & ~whole).any()


def test_weak_detections_are_not_drawn_and_the_score_is():
    boxes = (100, 100, 300, 300), (100, 350, 300, 550)
    both = drawn_on_grey(*boxes, scores=[0.9, 0.25])
    first = drawn_on_grey(*boxes, scores=[0.9, 0.2])
    assert shares(both, palette()[1]).any() and not shares(first, palette()[1]).any()
    np.testing.assert_array_equal(first[:, :340], both[:, :340])
    assert (drawn_on_grey(*boxes, scores=[0.8, 0.2]) != first).any()
    np.testing.assert_array_equal(drawn_on_grey(*boxes, scores=[0.1, 0.2]), GREY)


def test_names_hide_no_other_names():
    names = ["one", "two", "three", "four"]
    drawn = drawn_on_grey(*[(200, 200, 300, 330)] * 4, scores=[0.5, 0.9, 0.8, 0.7], names=names)
    alone = drawn_on_grey((200, 200, 300, 330), scores=[0.9], classes=[1], names=names)
    tag = shares(alone, palette()[1])
    tag[200:300] = False
    np.testing.assert_array_equal(drawn[tag], alone[tag])  # the most certain one has the place it has alone
    for index in range(4):  # each is there whole: some as much of its colour
        assert shares(drawn, palette()[index]).sum() > 0.8 * tag.sum()


@pytest.mark.parametrize(
    "box", [(-50, -60, 900, 800), (0, 0, 450, 600), (-9, 560, 12, 640), (449, 599, 450, 600), (5, 5, 5, 5)]
)
def test_names_stay_in_the_picture(box):
    drawn = drawn_on_grey(box, scores=[0.5], classes=[2])
    assert shares(drawn, palette()[2]).sum() > 300
    assert (drawn.sum(-1) < 100).sum() > 100  # and its text, in black


def test_a_small_image_is_enlarged_and_none_needs_a_box():
    image = np.zeros((20, 32, 3), np.uint8)
    none = np.zeros((0, 4)), np.zeros(0, int)
    assert draw_boxes(image, *none, np.zeros(0), ["a"]).shape == (20 * 14, 32 * 14, 3)
    np.testing.assert_array_equal(draw_boxes(GREY, *none, None, ["a"]), GREY)
    drawn = draw_boxes(image, np.array([[10.0, 10, 18, 20]]), np.array([0]), None, ["a"])
    assert drawn[17 * 14, 10 * 14].tolist() == palette()[0].tolist()
    assert not drawn[: 8 * 14].any()


def boxed(*boxes, classes, **more):
    flags = {name: np.zeros(len(boxes), bool) for name in ("crowd", "difficult")}
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "classes": np.array(classes, int)} | flags | more


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_a_comparison_of_boxes_shows_each_truth_beside_its_prediction(count):
    sizes = [(100, 200), (300, 150), (64, 64), (30, 448), (1000, 900), (448, 448), (77, 200)][:count]
    images = [np.full((*size, 3), (30, 100 + 10 * index, 200), np.uint8) for index, size in enumerate(sizes)]
    # The same part of each image: from 40 % to 90 % of its height and from 20 % to 80 % of its width.
    places = [np.array([0.4 * h, 0.2 * w, 0.9 * h, 0.8 * w]) for h, w in sizes]
    truths = [boxed(place, classes=[0]) for place in places]
    predictions = [boxed(place, place, classes=[2, 3], scores=np.array([0.8, 0.1], np.float32)) for place in places]
    drawn = compare_boxes(images, truths, predictions, ["cat", "dog", "owl", "fox"], 0.25)
    assert drawn.dtype == np.uint8
    for image, size in zip(images, sizes, strict=True):
        height, width = (round(side * pictures.TILE / max(size)) for side in size)
        y = np.flatnonzero(shares(drawn, image[0, 0]).any(1))
        x = np.flatnonzero(shares(drawn, image[0, 0])[y[-1]])  # the last line of the tiles, below the boxes
        assert y[-1] - y[0] + 1 == height  # its shape is kept
        assert len(x) == 2 * width and x[width] - x[0] == pictures.TILE + 10  # two tiles, side by side
        for start, colour in ((x[0], 0), (x[width], 2)):
            line = y[0] + round(0.9 * height) - 2  # on the lower side of the box
            for column in (round(0.2 * width) + 1, round(0.8 * width) - 2):
                assert drawn[line, start + column].tolist() == palette()[colour].tolist()
    for index, shown in enumerate((True, False, True, False)):  # also in the legend; 0.1 is too weak
        assert shares(drawn, palette()[index]).any() == shown


def test_a_comparison_dashes_what_counts_for_nothing():
    image, box = np.full((448, 448, 3), 128, np.uint8), (50, 50, 400, 400)
    nothing = boxed(classes=[], scores=np.zeros(0))
    amounts = [
        shares(compare_boxes([image], [boxed(box, classes=[0]) | flag], [nothing], ["cat"]), palette()[0]).sum()
        for flag in ({}, {"crowd": np.array([True])}, {"difficult": np.array([True])})
    ]
    assert amounts[1] == amounts[2] < 0.75 * amounts[0]


def test_any_number_of_classes_has_colours_and_none_is_the_grey_of_no_class():
    assert [class_colour(index) for index in range(255)] == [tuple(colour) for colour in palette()[:255].tolist()]
    assert [class_colour(index) for index in range(255, 1203)] == [
        class_colour(index % 255) for index in range(255, 1203)
    ]
    names = [f"class {index}" for index in range(1203)]
    image, box = np.full((448, 448, 3), 128, np.uint8), (50, 50, 400, 400)
    nothing = boxed(classes=[], scores=np.zeros(0))
    for index in (255, 256, 1202):
        drawn = draw_boxes(image, np.array([box]), np.array([index]), None, names)
        assert drawn[200, 51].tolist() == list(class_colour(index))
        legend = compare_boxes([image], [boxed(box, classes=[index])], [nothing], names)[36 + 448 :]
        assert shares(legend, class_colour(index)).sum() == 18 * 18
        curves = [curve(0.5, 0.7) if k == index else None for k in range(1203)]
        drawn = plot_precision_recall(curves, [0.35] * 1203, names, "IoU")
        assert plotted(drawn, 0.3, 0.5) == list(class_colour(index))
        assert shares(legend_of(drawn), class_colour(index)).any()
