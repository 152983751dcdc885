"""Linear models equal known answers, meet the conditions of an optimum, and equal numpy."""

import dataclasses

import numpy as np
import pytest

from experiments import solvers
from experiments.solvers import SVMSettings, fit_regressions, fit_svms

SETTINGS = SVMSettings(cost=100.0, positive_weight=1.0, bias_scale=10.0, feature_norm=1.0, hard_negatives=50, passes=1)


def make_block(features, positive, negative):
    return {"features": np.float32(features), "positive": np.array(positive), "negative": np.array(negative, bool)}


def clouds(rng, count=600, width=4):
    """Draw two classes and background around three centres, so that they overlap."""
    centres = np.array([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0]])[:, :width]
    kind = rng.integers(0, 3, count)
    features = (centres[kind] + rng.normal(0, 0.7, (count, width))).astype(np.float32)
    return make_block(features, np.where(kind < 2, kind, -1), kind[:, None] != np.arange(2))


def split(block, *places):
    return [
        {name: rows[start:end] for name, rows in block.items()}
        for start, end in zip((0, *places), (*places, None), strict=True)
    ]


def objective(weights, bias, block, number, settings):
    """Compute an SVM's objective in plain numpy, half the squared norm plus the cost of each violated margin."""
    scale = settings.feature_norm / np.linalg.norm(block["features"], axis=1).mean()
    weights = weights.astype(float) / scale
    margins = scale * block["features"].astype(float) @ weights + bias
    positive, negative = block["positive"] == number, block["negative"][:, number]
    hinge = settings.positive_weight * np.maximum(1 - margins[positive], 0).sum()
    hinge += np.maximum(1 + margins[negative], 0).sum()
    return (weights @ weights + (bias / settings.bias_scale) ** 2) / 2 + settings.cost * hinge


def test_widest_margin_between_two_points_equals_the_known_answer():
    """For points at 3 and -1 the border is half-way, at 1, and the points have margins of 1 and -1."""
    block = make_block([[3.0], [-1.0]], [0, -1], [[False], [True]])
    weights, biases, objectives = fit_svms([block], 1, SETTINGS)
    assert weights.shape == (1, 1) and biases.shape == (1,)
    np.testing.assert_allclose(block["features"][:, 0] * weights[0, 0] + biases[0], [1, -1], atol=1e-3)
    # Features are scaled to a mean norm of 1, half of the original one. A small violation costs 100 times its size.
    np.testing.assert_allclose(objectives, (1 + 0.05**2) / 2, rtol=0.02)


@pytest.mark.parametrize("hard_negatives", [10, 10_000])
def test_mining_ends_near_the_optimum_of_all_negatives(hard_negatives, monkeypatch):
    """No other weights near the solution have a lower objective, over rows that were mined in pieces of 100."""
    monkeypatch.setattr(solvers, "CHUNK", 100)
    block = clouds(np.random.default_rng(0))
    settings = dataclasses.replace(
        SETTINGS, cost=0.1, bias_scale=10.0, positive_weight=2.0, hard_negatives=hard_negatives, passes=2
    )
    weights, biases, objectives = fit_svms(split(block, 170, 400), 2, settings)
    rng = np.random.default_rng(1)
    for number in range(2):
        own = objective(weights[:, number], biases[number], block, number, settings)
        assert own == pytest.approx(objectives[number], rel=1e-3), "unused negatives have no loss"
        for size in (0.3, 0.03):
            step = rng.normal(0, size, (50, 5))
            moved = [
                objective(weights[:, number] + move[:4], biases[number] + move[4], block, number, settings)
                for move in step
            ]
            assert min(moved) > own * (1 - 1e-4)


def test_rows_that_are_neither_do_not_count():
    block = clouds(np.random.default_rng(0))
    found = fit_svms([block], 2, SETTINGS)
    stray = make_block(np.tile([[9.0, -9, 9, -9]], (50, 1)), [-1] * 50, np.zeros((50, 2)))
    # Features are scaled by the mean norm of all features.
    stray["features"] *= np.linalg.norm(block["features"], axis=1).mean() / np.linalg.norm(stray["features"][0])
    for one, other in zip(found, fit_svms([block, stray], 2, SETTINGS), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_class_without_positives_has_only_negative_margins():
    block = clouds(np.random.default_rng(0))
    block["positive"][block["positive"] == 1] = -1
    weights, biases, _ = fit_svms([block], 2, SETTINGS)
    assert not weights[:, 1].any() and biases[1] < -10 and weights[:, 0].any()


def test_an_unsolved_svm_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(solvers, "TURNS", 1)
    fit_svms([clouds(np.random.default_rng(0))], 2, SETTINGS)
    assert "2 SVMs are not solved after 1 iterations" in "".join(capsys.readouterr())


def test_regressions_equal_the_normal_equations():
    rng, ridge = np.random.default_rng(0), 3.0
    features, numbers = rng.normal(1, 1, (200, 6)).astype(np.float32), rng.integers(0, 2, 200)
    targets = (features @ rng.normal(0, 1, (6, 4)) + numbers[:, None] + rng.normal(0, 0.1, (200, 4))).astype(np.float32)
    block = {"features": features, "class": numbers, "targets": targets}
    weights, biases, explained = fit_regressions(split(block, 30, 31), 3, ridge=ridge, feature_norm=20.0)
    assert weights.shape == (6, 4, 3) and biases.shape == (4, 3)
    scale = 20 / np.linalg.norm(features, axis=1).mean()
    for number in range(2):
        x, t = scale * features[numbers == number].astype(float), targets[numbers == number].astype(float)
        centred = x - x.mean(0)
        solved = np.linalg.solve(centred.T @ centred + ridge * np.eye(6), centred.T @ (t - t.mean(0)))
        np.testing.assert_allclose(weights[..., number], scale * solved, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(biases[:, number], t.mean(0) - x.mean(0) @ solved, rtol=2e-3, atol=1e-3)
        assert 0.9 < explained[number] < 1
    assert not weights[..., 2].any() and not biases[:, 2].any() and np.isnan(explained[2])
