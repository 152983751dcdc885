"""Losses of segmentation: what a pixel's logits cost, given its true class and how much it counts.

All share one measure. `logits` is [B,H,W,C] float32, `label` [B,H,W] uint8 with 255 for no class, and `weight` [B,H,W]
float32 says how much a pixel counts: 0 where it does not (no class, padding). Each loss returns [B] float32, **the
image's mean loss times the image's total weight**: the sum over images by the sum of all weights is the batch's mean,
and this also holds over micro-batches, devices and padding. The logits of pixels without weight change nothing,
even if they are not finite; an image that has no other pixels gives 0 and no gradient.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax

from errors import UserError
from fields import NotNegative, Range, Share
from input_pipeline.batch import IGNORE

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class CrossEntropy:
    factor: NotNegative = 0.0  # of this loss in the sum; 0: off
    label_smoothing: Annotated[float, Range(0, 1, open="high")] = 0.0


class Dice:
    factor: NotNegative = 0.0


class Focal:
    factor: NotNegative = 0.0
    gamma: NotNegative = 2.0


class LovaszSoftmax:
    factor: NotNegative = 0.0


class OHEM:
    factor: NotNegative = 0.0
    threshold: Share = 0.7  # pixels whose true class has less than this probability,
    share: Share = 0.25  # and at least this share of an image


class Losses:
    """The section config.task.losses: each loss with its factor and its own fields."""

    cross_entropy: CrossEntropy
    dice: Dice
    focal: Focal
    lovasz_softmax: LovaszSoftmax
    ohem: OHEM


def pixel_weights(
    label: jax.Array, example_mask: jax.Array, class_weights: tuple[float, ...], weight_map: jax.Array | None
) -> jax.Array:
    """How much each pixel counts, [B,H,W] float32: its class's weight (1 if `class_weights` is ()) times `weight_map`.

    0 where `label` [B,H,W] is 255 and in examples that `example_mask` [B] bool leaves out.
    """
    weight = ((label != IGNORE) & example_mask[:, None, None]).astype(jnp.float32)
    if class_weights:
        weight = weight * jnp.asarray(class_weights, jnp.float32)[jnp.minimum(label, len(class_weights) - 1)]
    # where, not a product: the map of a pixel that does not count may hold anything.
    return weight if weight_map is None else jnp.where(weight > 0, weight * weight_map, 0.0)


def check_class_weights(class_weights: tuple[float, ...], num_classes: int) -> None:
    """Raises UserError unless `class_weights` is () or a weight for each class, one of them above 0."""
    where = "config.task.class_weights"
    hint = "`--mode=datacheck` prints them"
    if len(class_weights) not in (0, num_classes):
        raise UserError(f"{where} has {len(class_weights)} values, but there are {num_classes} classes: {hint}")
    if class_weights and max(class_weights) == 0:
        raise UserError(f"{where}={tuple(class_weights)} leaves nothing to learn from, one must be above 0: {hint}")


def cross_entropy(logits: jax.Array, label: jax.Array, weight: jax.Array, label_smoothing: float) -> jax.Array:
    """Cross-entropy with the target mixed with the uniform distribution (Szegedy et al. 2016, section 7)."""
    logits, truth = _counted(logits, label, weight)
    target = (1.0 - label_smoothing) * truth + label_smoothing / logits.shape[-1]
    return _total(-weight * jnp.sum(target * jax.nn.log_softmax(logits), axis=-1))


def focal(logits: jax.Array, label: jax.Array, weight: jax.Array, gamma: float) -> jax.Array:
    """-(1 - p)^gamma log p of the true class's softmax probability p (Lin et al. 2017, section 3.2), without alpha."""
    logits, truth = _counted(logits, label, weight)
    log_p = jnp.sum(truth * jax.nn.log_softmax(logits), axis=-1)
    # At p = 1 loss and gradient are 0, but the power's own derivative need not be finite. A NaN stays NaN.
    certain = log_p == 0.0
    log_p = jnp.where(certain, -1.0, log_p)
    losses = jnp.where(certain, 0.0, -((-jnp.expm1(log_p)) ** gamma) * log_p)
    return _total(weight * losses)


def dice(logits: jax.Array, label: jax.Array, weight: jax.Array) -> jax.Array:
    """1 - 2 sum(p t) / (sum p + sum t), the mean over the classes that the image's counted pixels have.

    Soft Dice of Milletari et al. 2016 (V-Net, section 3) with plain sums in the denominator where V-Net squares, as in
    Drozdzal et al. 2016 and since. Sums run over one image's pixels and are weighted by pixel. Classes absent from the
    image are left out: their Dice is 0 however small p is.
    """
    logits, truth = _counted(logits, label, weight)
    probability = jax.nn.softmax(logits)
    weighted = weight[..., None]
    both = jnp.sum(weighted * probability * truth, axis=(1, 2))
    size = jnp.sum(weighted * truth, axis=(1, 2))
    sizes = jnp.sum(weighted * probability, axis=(1, 2)) + size
    present = size > 0
    losses = 1.0 - 2.0 * both / jnp.where(present, sizes, 1.0)
    return _mean_of_classes(losses, present) * _total(weight)


def lovasz_softmax(logits: jax.Array, label: jax.Array, weight: jax.Array) -> jax.Array:
    """The Lovasz extension of the Jaccard loss (Berman et al. 2018, section 3), per image, over the classes present.

    The paper knows no pixel weights: within an image a pixel counts if its weight is above 0, and by how much it is
    above 0 decides nothing but what the image counts among others.
    """
    batch, classes = logits.shape[0], logits.shape[-1]
    logits, truth = _counted(logits, label, weight)
    wrong = jnp.where(truth > 0, 1.0 - jax.nn.softmax(logits), jax.nn.softmax(logits))
    # Pixels that do not count have no error and no label: last in the order, they change no slope before them, and
    # their own is multiplied by 0.
    wrong = jnp.where(weight[..., None] > 0, wrong, 0.0)
    errors = jnp.moveaxis(wrong, -1, 1).reshape(batch, classes, -1)
    truth = jnp.moveaxis(truth, -1, 1).reshape(batch, classes, -1).astype(jnp.int32)
    # Linear in the errors while their order stays: the slopes are constants, taken back to the pixels' own order.
    losses = jnp.sum(errors * _jaccard_slopes(lax.stop_gradient(errors), truth), axis=-1)
    return _mean_of_classes(losses, jnp.any(truth > 0, axis=-1)) * _total(weight)


def _jaccard_slopes(errors: jax.Array, truth: jax.Array) -> jax.Array:
    """What each pixel adds to the Jaccard loss when it is got wrong after all that have larger errors, [B,C,N].

    Equation 9 of Berman et al. 2018. Its differences of nearly equal quotients are written out, as float32 has too few
    digits for them: a pixel of the class leaves the union (U) as it is and takes 1 from the intersection (I), hence
    1/U; any other adds 1 to the union, hence I/(U-1) - I/U = I/(U(U-1)).
    """
    # The label is packed into the index: one sort and no gather.
    tag = 2 * lax.broadcasted_iota(jnp.int32, errors.shape, 2) + truth
    tag = lax.platform_dependent(errors, tag, cpu=_ordered_packed, default=_ordered)
    index, truth = tag >> 1, tag & 1
    found = jnp.cumsum(truth, axis=-1)
    size = found[..., -1:]
    intersection = (size - found).astype(jnp.float32)
    union = size + jnp.arange(1, errors.shape[-1] + 1, dtype=jnp.int32)[None, None] - found
    union = jnp.maximum(union, 1).astype(jnp.float32)
    slopes = jnp.where(truth > 0, 1.0 / union, intersection / (union * jnp.maximum(union - 1.0, 1.0)))
    # vmap, not indices of rows: a batch that lies on many devices stays where it is.
    return jax.vmap(jax.vmap(lambda slope, at: jnp.zeros_like(slope).at[at].set(slope, unique_indices=True)))(
        slopes, index
    )


def _ordered(errors: jax.Array, tag: jax.Array) -> jax.Array:
    """`tag` int32 by descending error along the last axis; ties keep their order."""
    return lax.sort((-errors, tag), num_keys=1, is_stable=True)[1]


def _ordered_packed(errors: jax.Array, tag: jax.Array) -> jax.Array:
    """The same for errors >= 0 and ascending tags, as one sort of integers: four times faster on the CPU.

    Floats >= 0 are ordered as their bits are. They go above the tag, which so decides between ties.
    """
    with jax.enable_x64(True):
        key = (~lax.bitcast_convert_type(errors, jnp.int32)).astype(jnp.int64) << 32
        return lax.sort(key | tag.astype(jnp.int64), is_stable=False).astype(jnp.int32)


def ohem(logits: jax.Array, label: jax.Array, weight: jax.Array, threshold: float, share: float) -> jax.Array:
    """Mean cross-entropy of an image's hard pixels (Shrivastava et al. 2016, by pixels instead of regions).

    Hard are pixels whose true class has a probability below `threshold`, and at least `share` of the image's counted
    pixels, the worst ones, with all that tie with the last of them. The mean is weighted; the choice is not, and has
    no gradient.
    """
    logits, truth = _counted(logits, label, weight)
    losses = -jnp.sum(truth * jax.nn.log_softmax(logits), axis=-1)
    counted = weight > 0
    hardness = lax.stop_gradient(jnp.where(counted, losses, -1.0))  # below every loss
    ordered = lax.sort(hardness.reshape(len(hardness), -1))
    wanted = jnp.ceil(share * jnp.sum(counted, axis=(1, 2), dtype=jnp.float32)).astype(jnp.int32)
    last = jnp.take_along_axis(ordered, ordered.shape[1] - jnp.maximum(wanted, 1)[:, None], axis=1)[:, 0]
    last = jnp.where(wanted > 0, last, jnp.inf)[:, None, None]
    # What is easy is left out, not what is hard kept: a loss of NaN has to stay visible.
    easy = (hardness < last) & (jnp.exp(-hardness) >= threshold)
    kept = jnp.where(counted & ~easy, weight, 0.0)
    kept_weight = _total(kept)
    return _total(kept * losses) / jnp.where(kept_weight > 0, kept_weight, 1.0) * _total(weight)


# In the order in which they are added up.
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "lovasz_softmax": lovasz_softmax,
    "ohem": ohem,
}


def make_losses(losses: Mapping[str, Mapping]) -> dict[str, tuple[float, Loss]]:
    """Makes {name: (factor, loss)} of the losses, as in `Losses`, whose factor is above 0, in its order.

    Raises UserError where there is none.
    """
    chosen = {}
    for name, function in LOSSES.items():
        own = dict(losses[name])
        factor = own.pop("factor")
        if factor:
            chosen[name] = (factor, partial(function, **own))
    if not chosen:
        raise UserError(
            f"config.task.losses: every factor is 0, so there is nothing to learn from; one of {', '.join(LOSSES)} must be "
            "above 0"
        )
    if losses["ohem"]["factor"] and not losses["ohem"]["threshold"] and not losses["ohem"]["share"]:
        raise UserError("config.task.losses.ohem: threshold and share are both 0, so no pixel counts; set one above 0")
    return chosen


def _counted(logits: jax.Array, label: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits and one-hot labels [B,H,W,C], both 0 where the pixel has no weight."""
    counted = weight[..., None] > 0
    # One-hot instead of take_along_axis, whose gradient is a scatter.
    truth = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    return jnp.where(counted, logits, 0.0), jnp.where(counted, truth, 0.0)


def _total(values: jax.Array) -> jax.Array:
    """[B,H,W] -> [B]."""
    return jnp.sum(values, axis=(1, 2))


def _mean_of_classes(losses: jax.Array, present: jax.Array) -> jax.Array:
    """The mean of [B,C] over the classes present, [B]; 0 where none is."""
    total = jnp.sum(jnp.where(present, losses, 0.0), axis=-1)
    return total / jnp.maximum(jnp.sum(present, axis=-1, dtype=jnp.float32), 1.0)
