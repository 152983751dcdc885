"""Hypothesis strategies for damaged files and wrong values of configs."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from errors import UserError

# Unusual values of every type that JSON and configs can hold.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, -(2**31) - 1, 2**63, 10**18, 10**30]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-30, 1e30, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.text(max_size=8),
    st.sampled_from(
        ["", "..", "/", "a/../b", "n" * 300, "\n", "\x1b[31m", "\ud800", "=cmd()", "<script>", "nan", "[", "*"]
    ),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def damage(content: bytes) -> st.SearchStrategy[bytes]:
    """Return file contents as a disk, a kill or an editor may leave them, such as flipped, cut, empty or doubled."""
    size = max(len(content), 1)
    damaged = [
        st.sampled_from(
            [b"", b"\x00" * 100, b"[" * 5000, b'{"a":' * 2000, b"\xff\xfe", content * 2, content + b"garbage"]
        ),
        st.integers(0, size).map(lambda end: content[:end]),
        st.tuples(st.integers(0, size - 1), st.integers(0, 7)).map(
            lambda at: (
                content[: at[0]] + bytes([content[at[0]] ^ 1 << at[1]]) + content[at[0] + 1 :] if content else b"x"
            )
        ),
        JUNK.map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=40),
    ]
    lines = content.splitlines()
    number = st.integers(0, max(len(lines) - 1, 0))
    if lines and all(line.lstrip()[:1] == b"{" for line in lines):  # one object per line
        damaged.append(
            number.flatmap(
                lambda at: replace(json.loads(lines[at])).map(lambda own: [*lines[:at], own, *lines[at + 1 :]])
            )
            .map(b"\n".join)
            .map(lambda text: text + b"\n")
        )
        damaged.append(st.permutations(lines).map(lambda own: b"\n".join(own) + b"\n"))
    elif content[:1] == b"{":
        damaged.append(replace(json.loads(content)))
    return st.one_of(damaged)


def replace(value: Any) -> st.SearchStrategy[bytes]:
    """Return the JSON of a value with one part, however deep, replaced or removed."""
    places = list(_list_places(value))
    return st.tuples(st.sampled_from(places), JUNK, st.booleans()).map(
        lambda drawn: json.dumps(_put(value, *drawn)).encode()
    )


def _list_places(value: Any, place: tuple = ()) -> list[tuple]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place, *(deeper for key in keys for deeper in _list_places(value[key], (*place, key)))]


def _put(value: Any, place: tuple, other: Any, remove: bool) -> Any:
    if not place:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    key, *rest = place
    if remove and not rest:
        del copy[key]
    else:
        copy[key] = _put(value[key], tuple(rest), other, remove)
    return copy


def succeeds_or_says_why(call: Callable[[], Any]) -> Any:
    """Return the result of `call`, or None if it raises a UserError of one line. Any other error is a failure."""
    try:
        return call()
    except UserError as error:
        text = str(error)
        assert text.isprintable() and 10 < len(text) < 3000, text
        return None
