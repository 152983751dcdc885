"""check_batch accepts the contract and names what breaks it."""

import numpy as np
import pytest

from input_pipeline.batch import OPTIONAL, SPECIFICATION, DataError, check_batch


def make_batch() -> dict[str, np.ndarray]:
    sizes = {"B": 2, "H": 4, "W": 6}
    return {
        key: np.zeros([sizes.get(axis, axis) for axis in shape], dtype) for key, (shape, dtype) in SPECIFICATION.items()
    }


def test_the_contract_holds():
    check_batch(make_batch())


@pytest.mark.parametrize("key", sorted(SPECIFICATION.keys() - OPTIONAL))
def test_a_missing_key_is_named(key):
    batch = make_batch()
    del batch[key]
    with pytest.raises(DataError, match=key):
        check_batch(batch)


@pytest.mark.parametrize("key", SPECIFICATION)
def test_a_wrong_dtype_or_size_is_named(key):
    for spoil in (lambda array: array.astype(np.float64), lambda array: array[:1], lambda array: array[None]):
        batch = make_batch()
        batch[key] = spoil(batch[key])
        with pytest.raises(DataError, match="batch"):
            check_batch(batch)


def test_an_unknown_key_is_named():
    with pytest.raises(DataError, match="boxes"):
        check_batch(make_batch() | {"boxes": np.zeros(2)})
