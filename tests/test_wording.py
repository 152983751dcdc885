"""Counts in messages."""

import pytest

import wording
from errors import UserError, warn


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


def test_an_error_is_one_line_whatever_a_name_holds(capsys):
    assert str(UserError("a\x1b[31m.jpg\n: wrong")) == "a?[31m.jpg?: wrong"
    warn("a\x07b")
    assert capsys.readouterr().err == "warning: a?b\n"
