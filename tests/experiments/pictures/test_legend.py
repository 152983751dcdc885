"""The legend below a picture."""

import numpy as np
from PIL import ImageFont

from experiments.pictures.legend import add_strip, count_classes, lay_legend, list_classes, list_label_classes
from experiments.pictures.palette import HATCH, palette

PICTURE = np.full((40, 30, 3), 7, np.uint8)
NAMES = ("ground", "a figure with a long name")


def test_classes_are_listed_once_and_no_class_last():
    label = np.array([[1, 255], [0, 1]], np.uint8)
    assert list_classes([label, label[:1]], NAMES) == [(0, "ground"), (1, NAMES[1]), (None, "no label")]
    assert list_classes([], NAMES) == []


def test_index_255_is_a_class_if_there_are_more_classes():
    names = [str(index) for index in range(300)]
    assert list_classes([np.array([255, 299])], names) == [(255, "255"), (299, "299")]


def test_legend_does_not_change_the_picture_and_fits_its_text():
    entries = [(0, "ground"), (1, NAMES[1]), (None, "no label")]
    drawn = add_strip(PICTURE, entries, "best 0.13, none of 0.25 or more")
    np.testing.assert_array_equal(drawn[:40, :30], PICTURE)
    assert drawn.shape[0] > 40 + 4 * 13 and drawn.shape[1] > 150
    assert (drawn[:40, 30:] == 255).all()
    for colour in (palette()[0], palette()[1], HATCH[0]):
        assert (drawn[40:] == colour).all(-1).any()
    assert (drawn[40:, -1] == 255).all(), "no text is cut"
    assert add_strip(PICTURE, [], "").shape[0] < 40 + 13


def test_legend_says_that_the_background_has_no_colour():
    (swatch, text), figure = list_label_classes([np.array([0, 1])], ("background", "figure"))
    assert figure == (1, "figure") and text == "background (not coloured)"
    assert callable(swatch) and np.asarray(swatch(9))[4, 4].tolist() == [255] * 3
    assert list_label_classes([np.array([0])], ("sky",)) == [(0, "sky")]


def test_classes_are_counted():
    assert count_classes(np.array([2, 0, 2]), ("a", "b", "c")) == [(0, "a: 1"), (2, "c: 2")]
    assert count_classes(np.zeros(0, int), ("a",)) == []


def test_entries_wrap_into_lines_and_wide_swatches_fit():
    font = ImageFont.load_default(size=13)
    wide = list_label_classes([np.array([0])], ("background",))[0][0], "one"
    height, places = lay_legend([(0, "one"), wide, (1, "a name that is far too long for the first line")], font, 150)
    assert places[0][1] == places[1][1] < places[2][1] < height and places[1][0] > places[0][0] == places[2][0] == 0
