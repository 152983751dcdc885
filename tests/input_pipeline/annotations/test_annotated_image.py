"""Class names appear in terminals, tables, pages and images, so unsuitable names are an error when they are read."""

import pathlib
import time

import pytest

from errors import UserError
from input_pipeline.annotations.annotated_image import check_letters, check_names

FILE = pathlib.Path("data.yaml")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            ["fox", "\x1b[31mred\x07"],
            r"classes with control characters in their names \(1\): '\\x1b\[31mred\\x07'; rename",
        ),
        (["a\u202eb"], r".*control characters in their names \(1\): 'a\\u202eb'"),
        (["a" * 100_000], r".*names of more than 200 letters \(1\): a{40}\.\.\.; shorten"),
        ([f"class {number}" for number in range(20_001)], r"names 20,001 classes, more than the limit of 20,000"),
        (["fox", "fox"], "names the class 'fox' more than once"),
    ],
)
def test_class_names_that_cannot_be_printed_raise_an_error(names, reason):
    with pytest.raises(UserError, match=f"^data.yaml:? ?{reason}") as caught:
        check_names(names, FILE)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_class_names_in_any_language_are_accepted_quickly():
    assert check_names(["größe ", "狐", "\u0646\u200c\u062e", "=1+1", "<b>"], FILE)[0] == "größe"
    began = time.monotonic()
    check_names([f"class {number}" for number in range(20_000)], FILE)
    assert time.monotonic() - began < 2
    check_letters(["twice", "twice"], FILE)  # only check_names raises an error for repeated names
