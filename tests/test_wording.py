"""Tests of counts, names and safe texts."""

import pytest

import wording
from errors import UserError, print_lines, warn


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


def test_a_verb_follows_its_number():
    assert wording.count_being(1, "file") == "1 file is"
    assert wording.count_being(2, "match") == "2 matches are"


def test_an_error_is_one_line_with_any_name(capsys):
    assert str(UserError("a\x1b[31m.jpg\n: wrong")) == "a?[31m.jpg?: wrong"
    warn("a\x07b")
    assert capsys.readouterr().err == "warning: a?b\n"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd()", "'=cmd()"),
        ("+1+2", "'+1+2"),
        ("@a", "'@a"),
        ("-a", "'-a"),
        ("\t=a", "?=a"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("-", "-"),
        ("fox", "fox"),
        ("a\x1b]0;b\x07\r\n=c", "a?]0;b???=c"),
    ],
)
def test_a_cell_is_not_a_formula_and_a_number_stays(text, cell):
    assert wording.make_cell(text) == cell


def test_names_of_files_are_printable_short_and_different():
    assert wording.make_file_name("größe 1.jpg") == "größe 1.jpg"
    odd = ["a\x1b.png", "a?.png", "a\x07.png", "ä" * 150, "ä" * 151, "\udcff"]
    made = [wording.make_file_name(name) for name in odd]
    assert len(set(made)) == len(odd) and all(len(name.encode()) < 220 and name.isprintable() for name in made)


def test_joiners_of_letters_stay_in_names():
    assert wording.is_harmless("\u0646\u200c\u062e") and wording.make_printable("a\u200cb") == "a\u200cb"
    assert not any(wording.is_harmless(name) for name in ("a\x1b[31m", "a\nb", "a\u202eb", "a\u2028b"))
    assert wording.escape_markdown("a|b\n<i> `c`\x1b") == "a\\|b &lt;i&gt; \\`c\\`?"


def test_lines_are_printed_one_each(capsys):
    print_lines("a\nb", "\x1b[2Jc")
    assert capsys.readouterr().out == "a?b\n?[2Jc\n"
