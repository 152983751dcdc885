"""Losses of a detector's outputs, element by element."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Num


def sigmoid_focal(
    logits: Float[Array, "*batch"], targets: Num[Array, "*batch"], *, alpha: float, gamma: float
) -> Float32[Array, "*batch"]:
    """Return the focal loss of binary logits for `targets` of 0 or 1 (Lin et al. 2017, equation 5).

    It is -alpha_t (1 - p_t)^gamma log(p_t), where p_t is the probability of the target and alpha_t is `alpha` for the
    target 1 and 1 - alpha for 0. Values and gradients are finite for every finite logit and every gamma.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    signed = jnp.where(targets > 0, logits, -logits)
    # By the logarithm of 1 - p_t, which has a gradient everywhere: a power of it has none at 0.
    weight = jnp.exp(gamma * jax.nn.log_sigmoid(-signed))
    return -jnp.where(targets > 0, alpha, 1 - alpha) * weight * jax.nn.log_sigmoid(signed)


def smooth_l1(errors: Float[Array, "*batch"], beta: float) -> Float[Array, "*batch"]:
    """Return errors^2 / (2 beta) up to `beta` and |errors| - beta / 2 beyond it, or |errors| for a `beta` of 0.

    This is equation 3 of Girshick 2015, "Fast R-CNN", with the bend at `beta` instead of 1.
    """
    size = jnp.abs(errors)
    return size if beta == 0 else jnp.where(size < beta, jnp.square(errors) / (2 * beta), size - beta / 2)
