"""A sheet of examples has every tile complete, in its place, below its caption."""

import numpy as np
import pytest
from PIL import ImageFont

from experiments.pictures.palette import palette
from experiments.pictures.sheet import LARGEST, SMALLEST, Sheet, shorten
from tests.experiments.pictures.colours import shares


@pytest.mark.parametrize(
    ("count", "wide", "columns"), [(1, False, 1), (16, False, 4), (16, True, 4), (8, False, 4), (7, True, 2)]
)
def test_tiles_are_placed_in_rows(count, wide, columns):
    sheet = Sheet([str(number) for number in range(count)], wide=wide)
    assert sheet.columns == columns and SMALLEST <= sheet.longer <= LARGEST
    for number in range(count):
        sheet.add(np.full((20 + number, 60, 3), (10, 2 * number, 200), np.uint8))
    drawn, places = sheet.draw([]), []
    for number in range(count):
        found = shares(drawn, (10, 2 * number, 200))
        assert found.sum() == (20 + number) * 60, "complete"
        places.append((int(found.any(1).argmax()), int(found.any(0).argmax())))
    assert sorted(places) == places, "row by row"
    assert len({left for _, left in places}) == min(columns, count)


def test_many_tiles_are_small_and_one_is_large():
    assert Sheet([""] * 1024).longer == SMALLEST and Sheet([""]).longer == LARGEST


def test_legend_is_below_and_needs_no_space_if_empty():
    sheet = Sheet(["a"])
    sheet.add(np.zeros((30, 30, 3), np.uint8))
    bare, drawn = sheet.draw([]), sheet.draw([(0, "ground"), (1, "a figure with quite a long name")])
    assert drawn.shape[0] > bare.shape[0] and shares(drawn[bare.shape[0] - 8 :], palette()[1]).any()
    assert (drawn[:, -1] == 255).all()


def test_a_caption_keeps_both_ends():
    font = ImageFont.load_default(size=13)
    text = "12  a_long_folder/and_a_long_name_00017.jpg"
    short = shorten(text, 120, font)
    assert font.getlength(short) <= 120 and short.startswith("12  ") and short.endswith("7.jpg") and "..." in short
    assert shorten("12", 120, font) == "12"
