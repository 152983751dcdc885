"""Tests of the rules of fields and of their checks."""

import math
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fields
from errors import UserError
from fields import Count, Named, NotNegative, Positive, Range, Share, Size


class Inner:
    gamma: NotNegative = 2.0


class Section:
    count: Count
    share: Share = 0.5
    kind: Literal["cosine", "constant"] = "cosine"
    inner: Inner


class Small:
    def __init__(self, *, width: Positive, grid: int | Size = 0, rngs: object):
        pass


class Large:
    def __init__(
        self, *, part: Annotated[dict, Named("model.part", {"small": "tests.test_fields:Small"}, frozenset({"rngs"}))]
    ):
        pass


class Child(Small):
    def __init__(self, *, depth: Count, **small):
        pass


MODEL = Annotated[
    dict, Named("model", {"small": "tests.test_fields:Small", "large": "tests.test_fields:Large"}, frozenset({"rngs"}))
]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (1, Count),
        (10**17, Count),
        (1, float),
        (0.5, Share),
        (True, bool),
        ("", str),
        ((96, 128), Size),
        ([96, 128], Size),
        ((), tuple[Size, ...]),
        (((1, 2), (3, 4)), tuple[Size, ...]),
        (7, int | Size),
        ((7, 7), int | Size),
        (8, Literal[32, 16, 8]),
        ((("a", 2.0),), tuple[tuple[str, float], ...]),
    ],
)
def test_a_value_that_follows_its_rule_passes(value, rule):
    fields.check("config.x", value, rule)


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (10**20, Count, "is out of its range; it must be a whole number, 1 or more"),
        (10**400, float, "it must be a number"),
        (float("inf"), float, "it must be a number"),
        (0, Count, "config.x=0 is out of its range; it must be a whole number, 1 or more"),
        (1.0, Count, "config.x=1.0 is not valid; it must be a whole number, 1 or more"),
        (True, Count, "not valid"),
        (True, float, "not valid"),
        (1, bool, "must be True or False"),
        (math.nan, float, "config.x=nan is not valid; it must be a number"),
        (math.inf, NotNegative, "not valid"),
        (-1, NotNegative, "out of its range; it must be a number, 0 or more"),
        (0.0, Positive, "out of its range; it must be a number, above 0"),
        (1.5, Share, "a number, 0 or more and 1 at most"),
        (1.0, Annotated[float, Range(0, 1, open="high")], "0 or more and below 1"),
        ((96,), Size, "config.x=(96,) is not valid; it must be 2 values, each a whole number, 1 or more"),
        ((96, 0), Size, "out of its range; it must be 2 values"),
        (96, Size, "not valid"),
        ((1, "a"), tuple[int, float], "2 values: a whole number; a number"),
        ("cosin", Literal["cosine", "constant"], "did you mean 'cosine'? it must be 'cosine' or 'constant'"),
        (64, Literal[32, 16, 8], "it must be 32 or 16 or 8"),
        ((("a",),), tuple[tuple[str, float], ...], "a tuple of any length, each value 2 values: text; a number"),
    ],
)
def test_another_value_is_an_error_with_the_rule(value, rule, message):
    with pytest.raises(UserError) as error:
        fields.check("config.x", value, rule)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_section_checks_its_fields():
    fields.check("config", {"count": 3, "inner": {"gamma": 1.0}}, Section)
    for values, message in (
        ({"count": 3, "inner": {}, "shar": 1.0}, "config.shar is not a field of config; did you mean 'share'?"),
        ({"inner": {}}, "config.count: config needs this field; missing in all: count"),
        ({"count": 3, "inner": {"gamma": -1.0}}, "config.inner.gamma=-1.0 is out of its range"),
        ({"count": 3, "inner": 4}, "config.inner=4 is not valid; it must hold fields"),
    ):
        with pytest.raises(UserError) as error:
            fields.check("config", values, Section)
        assert message in str(error.value)


def test_a_name_picks_the_signature_with_the_rules():
    fields.check("config.model", {"name": "large", "part": {"name": "small", "width": 1.0, "grid": (3, 4)}}, MODEL)
    for values, message in (
        (
            {"name": "smal", "width": 1.0},
            "config.model.name: unknown model 'smal'; did you mean 'small'? known: large, small",
        ),
        ({"width": 1.0}, "config.model.name is missing; choose one of large, small"),
        ({"name": "small", "width": 1.0, "rngs": 0}, "config.model.rngs is not a field of small"),
        ({"name": "large", "part": {"name": "small", "width": 0}}, "config.model.part.width=0 is out of its range"),
        ({"name": "large", "part": {"name": "tiny"}}, "config.model.part.name: unknown part 'tiny'"),
        ({"name": "small", "width": 1.0, "grid": (3,)}, "a whole number or 2 values, each a whole number, 1 or more"),
    ):
        with pytest.raises(UserError) as error:
            fields.check("config.model", values, MODEL)
        assert message in str(error.value)


def test_a_class_that_passes_fields_on_has_its_parents_fields():
    rule = Annotated[dict, Named("model", {"child": "tests.test_fields:Child"}, frozenset({"rngs"}))]
    assert fields.fields_of(rule, "child").keys() == {"depth", "width", "grid"}
    with pytest.raises(UserError, match="config.model.width=0 is out of its range"):
        fields.check("config.model", {"name": "child", "depth": 1, "width": 0}, rule)


def test_an_older_config_is_filled_with_defaults():
    assert fields.fill({"count": 3}, Section) == {
        "count": 3,
        "share": 0.5,
        "kind": "cosine",
        "inner": {"gamma": 2.0},
    }
    assert fields.fill({"name": "small", "width": 1.0}, MODEL) == {"name": "small", "width": 1.0, "grid": 0}
    older = {"name": "large", "part": {"name": "small", "width": 1.0}}
    assert fields.fill(older, MODEL) == {"name": "large", "part": {"name": "small", "width": 1.0, "grid": 0}}
    assert fields.defaults(Inner) == {"gamma": 2.0}


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 10), st.floats(0, 10))
def test_a_range_accepts_exactly_its_values(value, low, length):
    inside = math.isfinite(value) and low <= value <= low + length
    try:
        fields.check("config.x", value, Annotated[float, Range(low, low + length)])
    except UserError:
        assert not inside
    else:
        assert inside


def test_an_unknown_name_is_reported_with_its_place():
    inside = {"name": "large", "part": {"name": "smal", "width": 1.0}}
    rule = Annotated[dict, Named("model", {"large": "tests.test_fields:Large"}, frozenset())]
    with pytest.raises(UserError, match=r"^config\.model\.bottom_up\.part\.name: unknown part 'smal'; did you mean"):
        fields.check("config.model.bottom_up", inside, rule)


def test_unknown_fields_are_found_with_their_paths():
    assert fields.find_unknown({"count": 3, "inner": {"gamma": 1.0}}, Section) == []
    assert fields.find_unknown({"cont": 3, "inner": {"gama": 1.0}}, Section) == ["cont", "inner.gama"]
    assert fields.find_unknown({"inner": 2.0}, Section) == ["inner"]
    older = {"name": "large", "part": {"name": "small", "width": 1.0, "depth": 2}, "size": 3}
    assert fields.find_unknown(older, MODEL) == ["part.depth", "size"]
