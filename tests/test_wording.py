"""Counts in messages."""

import pytest

import wording


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "file", "0 files"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (3, "box", "3 boxes"),
        (1, "image", "1 image"),
    ],
)
def test_a_noun_follows_its_number(number, noun, said):
    assert wording.count(number, noun) == said


def test_so_does_the_verb():
    assert wording.count_being(1, "file") == "1 file is"
    assert wording.count_being(2, "match") == "2 matches are"
