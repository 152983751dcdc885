"""U-Net's weight map equals distances measured pixel by pixel and an example computed by hand."""

import concurrent.futures
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from errors import UserError
from input_pipeline.augment.weight_map import CUT_OFF, weight_map

MAPS = arrays(
    np.int32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.sampled_from([0] * 12 + [1, 2, 3, 70000])
)
SIGMAS = st.floats(0.05, 8.0)


def measure(instances, w0, sigma):
    """Return the exact weights of equation 2 without its first term, and d1 + d2.

    d1 + d2 is infinite if there are fewer than two objects.
    """
    numbers = [number for number in np.unique(instances) if number]
    pixels = np.argwhere(np.ones(instances.shape, bool))
    distances = np.full((len(numbers) + 2, instances.size), np.inf)
    for row, number in zip(distances, numbers, strict=False):
        offsets = pixels[:, None] - np.argwhere(instances == number)
        row[:] = np.sqrt((offsets**2).sum(-1)).min(1)
    total = np.sort(distances, axis=0)[:2].sum(0).reshape(instances.shape)
    return np.where(instances == 0, 1 + w0 * np.exp(-(total**2) / (2 * sigma**2)), 1.0), total


@given(MAPS, st.floats(0.0, 20.0), SIGMAS)
def test_weight_map_equals_the_formula_up_to_the_cut_off(instances, w0, sigma):
    weights = weight_map(instances, w0, sigma)
    expected, total = measure(instances, w0, sigma)
    assert weights.dtype == np.float32 and weights.shape == instances.shape
    assert (weights[instances != 0] == 1).all()
    reach = sigma * math.sqrt(2 * math.log(1 / CUT_OFF))
    near = total <= reach * (1 - 1e-6)
    np.testing.assert_allclose(weights[near], expected[near], rtol=1e-6, atol=CUT_OFF * w0)
    beyond = total > reach * (1 + 1e-6)
    assert (weights[beyond] == 1).all()
    assert (expected[beyond] - 1 <= CUT_OFF * w0).all()


def test_weights_of_two_objects_equal_hand_computed_values():
    instances = np.array([[4, 0, 0, 0, 0, 9]])  # d1 + d2 = 5 everywhere between them
    np.testing.assert_allclose(weight_map(instances, 10.0, 5.0), [[1, *[1 + 10 * math.exp(-0.5)] * 4, 1]], atol=1e-3)
    instances = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 2, 0]])
    middle, side = 1 + 3 * math.exp(-9 / 8), 1 + 3 * math.exp(-((1 + math.sqrt(5)) ** 2) / 8)
    np.testing.assert_allclose(weight_map(instances, 3.0, 2.0)[1], [side, middle, side], atol=3e-4)


@given(MAPS, SIGMAS, st.sampled_from([np.flipud, np.fliplr, np.transpose]))
def test_flipped_instances_give_the_flipped_weight_map(instances, sigma, move):
    np.testing.assert_array_equal(weight_map(move(instances), 10.0, sigma), move(weight_map(instances, 10.0, sigma)))


def test_weight_map_is_bitwise_reproducible():
    """A resumed run must get the same weights, at any memory address and in any thread."""
    rng = np.random.default_rng(0)
    instances = np.zeros((200, 200), np.int32)
    for number, (top, left) in enumerate(rng.integers(0, 190, (80, 2)), 1):
        instances[top : top + 9, left : left + 9] = number
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = {weights.tobytes() for weights in pool.map(lambda _: weight_map(instances, 10.0, 5.0), range(40))}
    assert len(results) == 1


@given(MAPS, SIGMAS, st.permutations([1, 2, 3, 7, 60000]))
def test_instance_ids_have_no_effect(instances, sigma, names):
    renamed = np.select([instances == number for number in (1, 2, 3, 70000)], names[:4], 0)
    np.testing.assert_array_equal(weight_map(renamed, 10.0, sigma), weight_map(instances, 10.0, sigma))


@pytest.mark.parametrize("instances", [np.zeros((5, 4), int), np.eye(6, dtype=int) * 7, np.ones((1, 1), np.uint16)])
def test_weights_are_one_for_fewer_than_two_objects(instances):
    assert (weight_map(instances, 10.0, 5.0) == 1).all()


def test_two_parts_with_one_id_are_one_object():
    assert (weight_map(np.array([[3, 0, 0, 3]]), 10.0, 5.0) == 1).all()


def test_touching_objects_and_w0_of_zero_are_supported():
    assert (weight_map(np.array([[1, 2], [2, 1]]), 10.0, 5.0) == 1).all()
    assert (weight_map(np.array([[1, 0, 2]]), 0.0, 5.0) == 1).all()


def test_invalid_parameters_raise_an_error():
    for w0, sigma in ((10.0, 0.0), (10.0, -1.0), (-1.0, 5.0)):
        with pytest.raises(UserError, match="weight_map"):
            weight_map(np.eye(3, dtype=int), w0, sigma)
