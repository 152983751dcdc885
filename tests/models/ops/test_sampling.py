"""Samples have the right counts, and every candidate has the same chance.

The hardest candidates equal those of a sort.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.ops import sampling

N, COUNT, SHARE = 12, 8, 0.25
KINDS = arrays(np.int32, N, elements=st.integers(-1, 1))  # negative, neither, positive

sample = jax.jit(partial(sampling.sample, count=COUNT, share=SHARE))
hardest = jax.jit(sampling.hardest)


@given(kinds=KINDS, seed=st.integers(0, 1000))
def test_samples_have_the_right_kinds_and_counts(kinds, seed):
    indices, mask, is_positive = sample(jax.random.key(seed), kinds == 1, kinds == -1)
    positives = min((kinds == 1).sum(), 2)  # a quarter of 8
    total = min(positives + (kinds == -1).sum(), COUNT)
    assert mask.tolist() == [True] * total + [False] * (COUNT - total)
    assert is_positive.tolist() == [True] * positives + [False] * (COUNT - positives)
    indices = np.asarray(indices)
    assert (kinds[indices[:positives]] == 1).all() and (kinds[indices[positives:total]] == -1).all()
    assert len(set(indices[:total])) == total and (indices[total:] == 0).all()
    assert sample._cache_size() == 1


def test_every_candidate_has_the_same_chance():
    positive, draws = np.arange(N) < 5, 2000
    keys = jax.random.split(jax.random.key(0), draws)
    indices, mask, _ = jax.jit(jax.vmap(lambda key: sample(key, positive, ~positive)))(keys)
    assert np.all(mask)
    shares = np.bincount(np.asarray(indices).ravel(), minlength=N) / draws
    np.testing.assert_allclose(shares, [2 / 5] * 5 + [6 / 7] * 7, atol=0.05)  # more than four standard deviations


def test_one_key_gives_the_same_sample_alone_and_in_a_batch():
    keys, positive = jax.random.split(jax.random.key(0), 3), np.arange(N) < 5
    batch = jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: sample(key, positive, ~positive)))(keys))
    for i, key in enumerate(keys):
        for a, b in zip(batch, sample(key, positive, ~positive), strict=True):
            np.testing.assert_array_equal(a[i], b)
    assert len({tuple(row) for row in batch[0]}) > 1


def test_fewer_boxes_than_the_count_are_padded():
    positive = np.array([True, False, False])
    indices, mask, is_positive = jax.jit(partial(sampling.sample, count=8, share=1.0))(
        jax.random.key(0), positive, ~positive
    )
    assert mask.tolist() == [True] * 3 + [False] * 5 and is_positive.tolist() == [True] + [False] * 7
    assert sorted(indices.tolist()[:3]) == [0, 1, 2] and indices.tolist()[0] == 0


@given(losses=arrays(np.int32, N, elements=st.integers(0, 4)), candidates=arrays(bool, N), count=st.integers(0, N + 2))
def test_hardest_equals_a_sort(losses, candidates, count):
    ranked = sorted(np.flatnonzero(candidates), key=lambda i: (-losses[i], i))[:count]
    mask = hardest(losses.astype(np.float32), candidates, jnp.int32(count))
    assert np.flatnonzero(mask).tolist() == sorted(ranked)
    assert hardest._cache_size() == 1


def test_hardest_accepts_a_count_per_image():
    losses = np.float32([[0.5, 3, 2, 1]] * 3)
    masks = jax.jit(jax.vmap(sampling.hardest))(losses, losses < 2.5, np.int32([0, 1, 9]))
    assert masks.tolist() == [[False] * 4, [False, False, True, False], [True, False, True, True]]
