"""Which of an image's anchors or proposals count in a loss. Over a batch: jax.vmap."""

import jax
import jax.numpy as jnp
from jax import lax


def sample(
    key: jax.Array, positive: jax.Array, negative: jax.Array, *, count: int, share: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A random choice of `count`, of which at most `share` are positive (Ren et al. 2015, Faster R-CNN, section 3.1.3).

    positive and negative [N] bool exclude each other. Negatives fill the places that positives leave, never the
    reverse. Returns (indices [count] int32, mask [count], is_positive [count]), the positives first; an index outside
    the mask is 0.
    """
    order = jax.random.uniform(key, positive.shape)

    def draw(candidates, most):
        values, indices = lax.top_k(jnp.where(candidates, order, -1), min(most, len(order)))
        return indices, values >= 0

    chosen, is_positive = draw(positive, int(count * share))
    others, is_negative = draw(negative, count)
    # The positives' places come first, and a stable sort closes the gaps.
    indices, mask = jnp.concatenate([chosen, others]), jnp.concatenate([is_positive, is_negative])
    indices, mask = (jnp.pad(x, (0, max(count - len(mask), 0))) for x in (indices, mask))
    kept = jnp.argsort(~mask, stable=True)[:count]
    mask = mask[kept]
    return jnp.where(mask, indices[kept], 0), mask, mask & (kept < len(chosen))


def hardest(losses: jax.Array, candidates: jax.Array, count: jax.Array) -> jax.Array:
    """Mask [N] of the `count` (scalar) candidates [N] bool of the largest losses [N]; of equal ones the lower index.

    All candidates where there are fewer. Liu et al. 2016, SSD, section 2.2, hard negative mining.
    """
    order = jnp.argsort(jnp.where(candidates, -losses, jnp.inf), stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)), unique_indices=True)
    return candidates & (rank < count)
