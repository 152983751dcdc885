"""Losses of segmentation, from the pixels' logits, labels and weights.

All have one signature. `label` is 255 for pixels without a class. `weight` is how much a pixel counts, and 0 for pixels
without a class and for padding. Each loss returns for each image **its mean loss times its total weight**. The sum over
images divided by the sum of all weights is then the batch's mean, also over micro-batches, devices and padding. The logits of
pixels without weight change nothing, even if they are not finite. An image without weight has a loss of 0 and no gradient.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float32, Int32, UInt8

from errors import UserError
from fields import NotNegative, Range, Share
from input_pipeline.batch import IGNORE

Logits = Float32[Array, "b h w c"]
Label = UInt8[Array, "b h w"]
Weight = Float32[Array, "b h w"]
Scalar = float | Float32[Array, ""]
PerImage = Float32[Array, " b"]  # an image's mean loss times its total weight
Loss = Callable[[Logits, Label, Weight], PerImage]


class CrossEntropy:
    factor: NotNegative = 0.0  # multiplies this loss in the sum; 0 switches it off
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
    threshold: Share = 0.7  # keep the pixels whose true class has less than this probability,
    share: Share = 0.25  # and at least this share of an image's pixels


class Losses(Mapping[str, Mapping[str, float]], metaclass=abc.ABCMeta):
    """The section config.task.losses, with the factor and the other fields of each loss."""

    cross_entropy: CrossEntropy
    dice: Dice
    focal: Focal
    lovasz_softmax: LovaszSoftmax
    ohem: OHEM


Losses.register(dict)  # sections of a config are dicts


def pixel_weights(
    label: Label,
    example_mask: Bool[Array, " b"],
    class_weights: Sequence[float],
    weight_map: Weight | None,
) -> Weight:
    """Return each pixel's weight, that of its class (1 if `class_weights` is ()) times `weight_map`.

    It is 0 where `label` is 255 and in examples that are False in `example_mask`.
    """
    weight = ((label != IGNORE) & example_mask[:, None, None]).astype(jnp.float32)
    if class_weights:
        weight = weight * jnp.asarray(class_weights, jnp.float32)[jnp.minimum(label, len(class_weights) - 1)]
    # where, not a product: the map may hold anything at pixels that do not count.
    return weight if weight_map is None else jnp.where(weight > 0, weight * weight_map, 0.0)


def check_class_weights(class_weights: Sequence[float], num_classes: int) -> None:
    """Raise UserError unless `class_weights` is () or a weight for each class, one of them above 0."""
    where = "config.task.class_weights"
    hint = "`--mode=datacheck` prints them"
    if len(class_weights) not in (0, num_classes):
        raise UserError(f"{where} has {len(class_weights)} values, but the data has {num_classes} classes: {hint}")
    if class_weights and max(class_weights) == 0:
        raise UserError(f"{where}={tuple(class_weights)} leaves nothing to learn from; set one above 0: {hint}")


def cross_entropy(logits: Logits, label: Label, weight: Weight, label_smoothing: float) -> PerImage:
    """Return the cross-entropy, its target mixed with the uniform distribution (Szegedy et al. 2016, section 7)."""
    logits, truth = _counted(logits, label, weight)
    target = (1.0 - label_smoothing) * truth + label_smoothing / logits.shape[-1]
    return _total(-weight * jnp.sum(target * jax.nn.log_softmax(logits), axis=-1))


def focal(logits: Logits, label: Label, weight: Weight, gamma: Scalar) -> PerImage:
    """Return the focal loss without alpha (Lin et al. 2017, section 3.2).

    It is -(1 - p)^gamma log p, where p is the softmax probability of the true class.
    """
    logits, truth = _counted(logits, label, weight)
    log_p = jnp.sum(truth * jax.nn.log_softmax(logits), axis=-1)
    # At p = 1 loss and gradient are 0, but the derivative of the power may not be finite. A NaN stays NaN.
    certain = log_p == 0.0
    log_p = jnp.where(certain, -1.0, log_p)
    losses = jnp.where(certain, 0.0, -((-jnp.expm1(log_p)) ** gamma) * log_p)
    return _total(weight * losses)


def dice(logits: Logits, label: Label, weight: Weight) -> PerImage:
    """Return the soft Dice loss (Milletari et al. 2016, V-Net, section 3), the mean over the classes in the image.

    It is 1 - 2 sum(p t) / (sum p + sum t), with plain sums in the denominator as in Drozdzal et al. 2016, where V-Net
    squares. Sums run over one image's pixels, by their weights. Classes absent from the image are left out, because their
    Dice is 0 however small p is.
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


def lovasz_softmax(logits: Logits, label: Label, weight: Weight) -> PerImage:
    """Return the Lovasz extension of the Jaccard loss (Berman et al. 2018, section 3), the mean over the classes present.

    The paper has no pixel weights. Here all pixels of positive weight count alike within an image; how large the weights are
    matters only for how much the image counts among others.
    """
    batch, classes = logits.shape[0], logits.shape[-1]
    logits, truth = _counted(logits, label, weight)
    wrong = jnp.where(truth > 0, 1.0 - jax.nn.softmax(logits), jax.nn.softmax(logits))
    # Pixels that do not count have no error and no label. They come last in the order and change no slope before them;
    # their own slope is multiplied by 0.
    wrong = jnp.where(weight[..., None] > 0, wrong, 0.0)
    errors = jnp.moveaxis(wrong, -1, 1).reshape(batch, classes, -1)
    truth = jnp.moveaxis(truth, -1, 1).reshape(batch, classes, -1).astype(jnp.int32)
    # The loss is linear in the errors as long as their order stays, so the slopes are constants.
    losses = jnp.sum(errors * _jaccard_slopes(lax.stop_gradient(errors), truth), axis=-1)
    return _mean_of_classes(losses, jnp.any(truth > 0, axis=-1)) * _total(weight)


def _jaccard_slopes(errors: Float32[Array, "b c n"], truth: Int32[Array, "b c n"]) -> Float32[Array, "b c n"]:
    """Return how much each pixel adds to the Jaccard loss if it is wrong after all pixels with larger errors.

    This is equation 9 of Berman et al. 2018. Its differences of nearly equal quotients are simplified by hand, because
    float32 has too few digits for them. A pixel of the class keeps the union U and takes 1 from the intersection I, which
    adds 1/U. Any other pixel adds 1 to the union, which adds I/(U-1) - I/U = I/(U(U-1)).
    """
    # The tag holds the index and the label: one sort and no gather.
    tag = 2 * lax.broadcasted_iota(jnp.int32, errors.shape, 2) + truth
    tag = lax.platform_dependent(errors, tag, cpu=_ordered_packed, default=_ordered)
    index, truth = tag >> 1, tag & 1
    found = jnp.cumsum(truth, axis=-1)
    size = found[..., -1:]
    intersection = (size - found).astype(jnp.float32)
    union = size + jnp.arange(1, errors.shape[-1] + 1, dtype=jnp.int32)[None, None] - found
    union = jnp.maximum(union, 1).astype(jnp.float32)
    slopes = jnp.where(truth > 0, 1.0 / union, intersection / (union * jnp.maximum(union - 1.0, 1.0)))
    # Back to the pixels' own order. vmap instead of indices of rows keeps a sharded batch on its devices.
    return jax.vmap(jax.vmap(lambda slope, at: jnp.zeros_like(slope).at[at].set(slope, unique_indices=True)))(
        slopes, index
    )


def _ordered(errors: Float32[Array, "b c n"], tag: Int32[Array, "b c n"]) -> Int32[Array, "b c n"]:
    """Sort `tag` by descending error along the last axis. Ties keep their order."""
    return lax.sort((-errors, tag), num_keys=1, is_stable=True)[1]


def _ordered_packed(errors: Float32[Array, "b c n"], tag: Int32[Array, "b c n"]) -> Int32[Array, "b c n"]:
    """Sort as `_ordered` for errors >= 0 and ascending tags, by one sort of integers. It is four times faster on the CPU.

    Floats >= 0 have the order of their bits. The bits go above the tag, so that the tag decides between ties.
    """
    with jax.enable_x64(True):
        key = (~lax.bitcast_convert_type(errors, jnp.int32)).astype(jnp.int64) << 32
        return lax.sort(key | tag.astype(jnp.int64), is_stable=False).astype(jnp.int32)


def ohem(logits: Logits, label: Label, weight: Weight, threshold: Scalar, share: Scalar) -> PerImage:
    """Return the mean cross-entropy of an image's hard pixels (Shrivastava et al. 2016, by pixels instead of regions).

    Pixels are hard if their true class has a probability below `threshold`. If these are less than `share` of the counted
    pixels, the worst `share` of them are hard, with all that tie with the last one. The mean is weighted by pixel; the
    choice is not, and has no gradient.
    """
    logits, truth = _counted(logits, label, weight)
    losses = -jnp.sum(truth * jax.nn.log_softmax(logits), axis=-1)
    counted = weight > 0
    hardness = lax.stop_gradient(jnp.where(counted, losses, -1.0))  # below every loss
    ordered = lax.sort(hardness.reshape(len(hardness), -1))
    wanted = jnp.ceil(share * jnp.sum(counted, axis=(1, 2), dtype=jnp.float32)).astype(jnp.int32)
    last = jnp.take_along_axis(ordered, ordered.shape[1] - jnp.maximum(wanted, 1)[:, None], axis=1)[:, 0]
    last = jnp.where(wanted > 0, last, jnp.inf)[:, None, None]
    # Drop the easy pixels instead of keeping the hard ones: a loss of NaN must stay visible.
    easy = (hardness < last) & (jnp.exp(-hardness) >= threshold)
    kept = jnp.where(counted & ~easy, weight, 0.0)
    kept_weight = _total(kept)
    return _total(kept * losses) / jnp.where(kept_weight > 0, kept_weight, 1.0) * _total(weight)


# In the order in which they are added up.
LOSSES: dict[str, Callable[..., PerImage]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "lovasz_softmax": lovasz_softmax,
    "ohem": ohem,
}


def make_losses(losses: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, Loss]]:
    """Return (factor, loss) by name for the losses with a factor above 0, in the order of LOSSES.

    Raises UserError if there is none.
    """
    chosen: dict[str, tuple[float, Loss]] = {}
    for name, function in LOSSES.items():
        own = dict(losses[name])
        factor = own.pop("factor")
        if factor:
            chosen[name] = (factor, partial(function, **own))
    if not chosen:
        raise UserError(
            f"config.task.losses: every factor is 0, so there is nothing to learn from; set that of one of "
            f"{', '.join(LOSSES)} above 0"
        )
    if losses["ohem"]["factor"] and not losses["ohem"]["threshold"] and not losses["ohem"]["share"]:
        raise UserError("config.task.losses.ohem: threshold and share are both 0, so no pixel counts; set one above 0")
    return chosen


def _counted(logits: Logits, label: Label, weight: Weight) -> tuple[Logits, Float32[Array, "b h w c"]]:
    """Return the logits and one-hot labels, both 0 where the pixel has no weight."""
    counted = weight[..., None] > 0
    # One-hot instead of take_along_axis, whose gradient is a scatter.
    truth = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    return jnp.where(counted, logits, 0.0), jnp.where(counted, truth, 0.0)


def _total(values: Float32[Array, "b h w"]) -> Float32[Array, " b"]:
    """Sum over each image's pixels."""
    return jnp.sum(values, axis=(1, 2))


def _mean_of_classes(losses: Float32[Array, "b c"], present: Bool[Array, "b c"]) -> Float32[Array, " b"]:
    """Return the mean over the classes present, 0 where none is."""
    total = jnp.sum(jnp.where(present, losses, 0.0), axis=-1)
    return total / jnp.maximum(jnp.sum(present, axis=-1, dtype=jnp.float32), 1.0)
