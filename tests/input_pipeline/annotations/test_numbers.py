"""Numbers from files are checked, because JSON has no limit on them."""

import math

import pytest

from input_pipeline.annotations.numbers import is_finite, is_number, is_whole


@pytest.mark.parametrize(
    ("value", "number", "finite", "whole"),
    [
        (1, True, True, True),
        (-2.5, True, True, False),
        (2.0, True, True, False),
        (math.nan, True, False, False),
        (math.inf, True, False, False),
        (2**63 - 1, True, True, True),
        (2**63, True, True, False),
        (10**400, False, False, False),
        *((value, False, False, False) for value in (True, False, None, "1", [1])),
    ],
)
def test_numbers_are_finite_or_whole_as_expected(value, number, finite, whole):
    assert (is_number(value), is_finite(value), is_whole(value)) == (number, finite, whole)
