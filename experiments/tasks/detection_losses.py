"""Losses of detectors: what an anchor's outputs cost, element by element."""

import jax
import jax.numpy as jnp


def sigmoid_focal(logits: jax.Array, targets: jax.Array, *, alpha: float, gamma: float) -> jax.Array:
    """The focal loss [...] float32 of `logits` [...] of a yes or no, `targets` [...] 1 or 0 (Lin et al. 2017, equation 5).

    -alpha_t (1 - p_t)^gamma log(p_t), where p_t is the probability of the target and alpha_t is `alpha` for a yes and
    1 - alpha for a no. Values and gradients are finite for every finite logit and every gamma.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    signed = jnp.where(targets > 0, logits, -logits)
    # A power of 1 - p_t would have no gradient where that is 0; its logarithm has one everywhere.
    weight = jnp.exp(gamma * jax.nn.log_sigmoid(-signed))
    return -jnp.where(targets > 0, alpha, 1 - alpha) * weight * jax.nn.log_sigmoid(signed)


def smooth_l1(errors: jax.Array, beta: float) -> jax.Array:
    """errors^2 / (2 beta) up to `beta`, and |errors| - beta / 2 beyond it, [...]; |errors| for a `beta` of 0.

    Girshick 2015, Fast R-CNN, equation 3, with the bend at `beta` instead of 1.
    """
    size = jnp.abs(errors)
    return size if beta == 0 else jnp.where(size < beta, jnp.square(errors) / (2 * beta), size - beta / 2)
