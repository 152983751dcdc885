"""check_batch accepts valid batches of labels and of objects, and names the fault of others."""

import numpy as np
import pytest

from errors import UserError
from input_pipeline.batch import ALWAYS, OBJECTS, PROPOSALS, SPECIFICATION, check_batch

KEYS = {
    "label": ("label", "weight_map"),
    "boxes": OBJECTS,
    "masks": (*OBJECTS, "masks"),
    "proposals": (*OBJECTS, *PROPOSALS),
}
BOTH = [(truth, key) for truth in KEYS for key in sorted((*ALWAYS, *KEYS[truth]))]


def make_batch(truth: str) -> dict[str, np.ndarray]:
    sizes = {"B": 2, "H": 4, "W": 6, "M": 3, "P": 8, "h": 5, "w": 7}
    return {
        key: np.zeros([sizes.get(axis, axis) for axis in SPECIFICATION[key][0]], SPECIFICATION[key][1])
        for key in (*ALWAYS, *KEYS[truth])
    }


@pytest.mark.parametrize("truth", KEYS)
def test_valid_batches_pass_the_check(truth):
    check_batch(make_batch(truth), KEYS[truth])
    assert {*ALWAYS, *KEYS["label"], *KEYS["masks"], *PROPOSALS} == SPECIFICATION.keys()


@pytest.mark.parametrize(("truth", "key"), BOTH)
def test_missing_key_is_named(truth, key):
    batch = make_batch(truth)
    del batch[key]
    with pytest.raises(UserError, match=key):
        check_batch(batch, KEYS[truth])


@pytest.mark.parametrize(("truth", "key"), BOTH)
def test_wrong_dtype_or_size_is_named(truth, key):
    for spoil in (lambda array: array.astype(np.float64), lambda array: array[:1], lambda array: array[None]):
        batch = make_batch(truth)
        batch[key] = spoil(batch[key])
        with pytest.raises(UserError, match="batch"):
            check_batch(batch, KEYS[truth])


def test_unknown_key_is_named():
    with pytest.raises(UserError, match="unknown keys .'depth'"):
        check_batch(make_batch("label") | {"depth": np.zeros(2)}, KEYS["label"])


def test_label_and_objects_in_one_batch_raise_an_error():
    boxes = make_batch("boxes")
    for key in ("label", "weight_map"):
        with pytest.raises(UserError, match=f"unknown keys .'{key}'"):
            check_batch(boxes | {key: make_batch("label")[key]}, KEYS["boxes"])
    with pytest.raises(UserError, match="unknown keys .'classes'"):
        check_batch(make_batch("label") | {"classes": boxes["classes"]}, KEYS["label"])
