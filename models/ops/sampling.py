"""Selection of an image's anchors or proposals that count in a loss. Use jax.vmap for a batch."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32, Key


def sample(
    key: Key[Array, ""], positive: Bool[Array, " n"], negative: Bool[Array, " n"], *, count: int, share: float
) -> tuple[Int32[Array, " {count}"], Bool[Array, " {count}"], Bool[Array, " {count}"]]:
    """Draw `count` candidates, at most `share` of them positive (Ren et al. 2015, Faster R-CNN, section 3.1.3).

    No candidate is both positive and negative. Negatives fill the places that positives leave free, never the reverse.
    Returns (indices, mask, is_positive), the positives first; an index outside the mask is 0.
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


def hardest(losses: Float[Array, " n"], candidates: Bool[Array, " n"], count: Int[Array, ""]) -> Bool[Array, " n"]:
    """Return the mask of the `count` candidates with the largest losses, or of all candidates if there are fewer.

    Of equal losses the lower index comes first. This is SSD's hard negative mining (Liu et al. 2016, section 2.2).
    """
    order = jnp.argsort(jnp.where(candidates, -losses, jnp.inf), stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)), unique_indices=True)
    return candidates & (rank < count)
