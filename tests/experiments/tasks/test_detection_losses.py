import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.detection_losses import sigmoid_focal, smooth_l1


def focal_of(logit, target, alpha, gamma):
    """Compute equation 5 in float64."""
    p = 1 / (1 + np.exp(-logit))
    p, alpha = (p, alpha) if target else (1 - p, 1 - alpha)
    return -alpha * (1 - p) ** gamma * np.log(p)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 0.5), (0.0, 5.0)])
def test_focal_loss_equals_its_formula(alpha, gamma):
    logits = np.linspace(-12, 12, 49)
    for target in (0, 1):
        found = sigmoid_focal(jnp.float32(logits), jnp.full(49, target), alpha=alpha, gamma=gamma)
        np.testing.assert_allclose(found, [focal_of(x, target, alpha, gamma) for x in logits], rtol=2e-4, atol=1e-12)


def test_focal_loss_without_focus_is_half_the_cross_entropy():
    logits, targets = jnp.array([0.0, 3.0, -3.0]), jnp.array([1, 1, 0])
    expected = 0.5 * np.log(1 + np.exp([0.0, -3.0, -3.0]))
    np.testing.assert_allclose(sigmoid_focal(logits, targets, alpha=0.5, gamma=0.0), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_focal_loss_and_its_gradient_are_finite(dtype):
    logits = jnp.array([-1e30, -1e4, -100, -17, 0, 17, 100, 1e4, 1e30], dtype)
    for gamma in (0.0, 0.5, 2.0):
        for target in (0, 1):
            targets = jnp.full(logits.shape, target)
            value, gradient = jax.vmap(
                jax.value_and_grad(lambda x, y, gamma=gamma: sigmoid_focal(x, y, alpha=0.25, gamma=gamma))
            )(logits, targets)
            assert np.isfinite(value).all() and np.isfinite(gradient.astype(jnp.float32)).all()
            right, wrong = (8, 0) if target else (0, 8)
            assert value[right] == 0 and value[wrong] > 1e28 and gradient[right] == 0
            np.testing.assert_allclose(abs(gradient[wrong].astype(float)), 0.25 if target else 0.75, rtol=1e-2)


def test_smooth_l1_is_quadratic_below_beta_and_linear_above():
    errors = jnp.array([-3.0, -0.5, 0.0, 0.1, 0.5, 2.0])
    np.testing.assert_allclose(smooth_l1(errors, 0.0), [3, 0.5, 0, 0.1, 0.5, 2])
    np.testing.assert_allclose(smooth_l1(errors, 1.0), [2.5, 0.125, 0, 0.005, 0.125, 1.5], rtol=1e-6)
    np.testing.assert_allclose(smooth_l1(errors, 0.2), [2.9, 0.4, 0, 0.025, 0.4, 1.9], rtol=1e-6)
    for beta in (0.0, 0.2):
        gradient = jax.vmap(jax.grad(lambda x, beta=beta: smooth_l1(x, beta)))(errors)
        np.testing.assert_allclose(np.delete(gradient, 2), [-1, -1, 0.5 if beta else 1, 1, 1], rtol=1e-6)
        assert abs(gradient[2]) <= 1
