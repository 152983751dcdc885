"""check_batch accepts the contract, of a label and of objects, and names what breaks it."""

import numpy as np
import pytest

from errors import UserError
from input_pipeline.batch import OBJECTS, OPTIONAL, SPECIFICATION, check_batch

KEYS = {"label": SPECIFICATION.keys() - OBJECTS, "boxes": SPECIFICATION.keys() - {"label", "weight_map"}}
BOTH = [(truth, key) for truth in KEYS for key in sorted(KEYS[truth])]


def make_batch(truth: str) -> dict[str, np.ndarray]:
    sizes = {"B": 2, "H": 4, "W": 6, "M": 3}
    return {
        key: np.zeros([sizes.get(axis, axis) for axis in SPECIFICATION[key][0]], SPECIFICATION[key][1])
        for key in KEYS[truth]
    }


@pytest.mark.parametrize("truth", KEYS)
def test_the_contract_holds(truth):
    check_batch(make_batch(truth))


@pytest.mark.parametrize(("truth", "key"), [(truth, key) for truth, key in BOTH if key not in OPTIONAL])
def test_a_missing_key_is_named(truth, key):
    batch = make_batch(truth)
    del batch[key]
    with pytest.raises(UserError, match=key):
        check_batch(batch)


@pytest.mark.parametrize(("truth", "key"), BOTH)
def test_a_wrong_dtype_or_size_is_named(truth, key):
    for spoil in (lambda array: array.astype(np.float64), lambda array: array[:1], lambda array: array[None]):
        batch = make_batch(truth)
        batch[key] = spoil(batch[key])
        with pytest.raises(UserError, match="batch"):
            check_batch(batch)


def test_an_unknown_key_is_named():
    with pytest.raises(UserError, match="unknown keys .'depth'"):
        check_batch(make_batch("label") | {"depth": np.zeros(2)})


def test_a_batch_has_a_label_or_objects():
    boxes = make_batch("boxes")
    for key in ("label", "weight_map"):
        with pytest.raises(UserError, match=f"unknown keys .'{key}'"):
            check_batch(boxes | {key: make_batch("label")[key]})
    with pytest.raises(UserError, match="unknown keys .'classes'"):
        check_batch(make_batch("label") | {"classes": boxes["classes"]})
