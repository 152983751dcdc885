import math
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UserError
from experiments.tasks import losses
from fields import check as fields_check
from fields import fill

NAMES = ("cross_entropy", "dice", "focal", "lovasz_softmax", "ohem")
SHAPE = (4, 3, 4, 3)  # B, H, W, C; one shape for all inputs, so that each loss is compiled once
LOSSES = {
    "cross_entropy": partial(losses.cross_entropy, label_smoothing=0.1),
    "dice": losses.dice,
    "focal": partial(losses.focal, gamma=2.0),
    "lovasz_softmax": losses.lovasz_softmax,
    "ohem": partial(losses.ohem, threshold=0.3, share=0.25),
}


@cache
def compiled(name):
    """Compile a function of (logits, label, weight) that returns the loss [B] and the gradient of its sum."""

    def value(logits, label, weight):
        by_image = LOSSES[name](logits, label, weight)
        return jnp.sum(by_image), by_image

    def both(logits, label, weight):
        (_, by_image), gradient = jax.value_and_grad(value, has_aux=True)(logits, label, weight)
        return by_image, gradient

    return jax.jit(both)


def evaluate(loss, logits, label, weight, **fields):
    """Evaluate a compiled loss, which is faster than running its operations one by one."""
    return jax.jit(partial(loss, **fields))(logits, label, weight)


def draw(seed, ignored=0.25, scale=2.0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, SHAPE[-1], SHAPE[:3]).astype(np.uint8)
    label[rng.random(label.shape) < ignored] = 255
    weight = np.where(label == 255, 0.0, rng.uniform(0.5, 2.0, label.shape)).astype(np.float32)
    return (scale * rng.normal(size=SHAPE)).astype(np.float32), label, weight


def logits_of(probability):
    """Return logits [1,H,W,C] of probabilities [H,W,C], plus a constant that softmax removes."""
    return (np.log(np.asarray(probability)) + 3.0)[None].astype(np.float32)


def image(values, dtype):
    return np.asarray(values, dtype)[None]


def softmax(logits):
    power = np.exp(np.asarray(logits, np.float64))
    return power / power.sum(-1, keepdims=True)


seeds = st.integers(0, 2**32 - 1)

# One 2x2 image of two classes. One pixel does not count.
PROBABILITY = [[[0.7, 0.3], [0.4, 0.6]], [[0.2, 0.8], [0.9, 0.1]]]
LABEL = image([[0, 0], [1, 255]], np.uint8)
WEIGHT = image([[1.0, 2.0], [3.0, 0.0]], np.float32)


# Known answers.


def test_cross_entropy_equals_hand_computed_value():
    value = evaluate(losses.cross_entropy, logits_of(PROBABILITY), LABEL, WEIGHT, label_smoothing=0.0)
    assert value.shape == (1,)
    assert float(value[0]) == pytest.approx(-(1 * math.log(0.7) + 2 * math.log(0.4) + 3 * math.log(0.8)), rel=1e-5)


def test_smoothed_cross_entropy_equals_hand_computed_value():
    value = evaluate(
        losses.cross_entropy,
        logits_of([[[0.7, 0.2, 0.1]]]),
        image([[0]], np.uint8),
        np.ones((1, 1, 1), np.float32),
        label_smoothing=0.3,
    )
    assert float(value[0]) == pytest.approx(-(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1)), 1e-5)


def test_focal_equals_hand_computed_value():
    value = evaluate(losses.focal, logits_of(PROBABILITY), LABEL, WEIGHT, gamma=2.0)
    by_hand = -(1 * 0.3**2 * math.log(0.7) + 2 * 0.6**2 * math.log(0.4) + 3 * 0.2**2 * math.log(0.8))
    assert float(value[0]) == pytest.approx(by_hand, rel=1e-5)


def test_dice_equals_hand_computed_value():
    value = evaluate(losses.dice, logits_of(PROBABILITY), LABEL, WEIGHT)
    # Class 0: sum w p t = 0.7 + 2 * 0.4 = 1.5, sum w p = 1.5 + 3 * 0.2 = 2.1, sum w t = 3.
    # Class 1: sum w p t = 3 * 0.8 = 2.4, sum w p = 2.4 + 0.3 + 2 * 0.6 = 3.9, sum w t = 3.
    mean = (1 - 2 * 1.5 / (2.1 + 3) + 1 - 2 * 2.4 / (3.9 + 3)) / 2
    assert float(value[0]) == pytest.approx(6 * mean, rel=1e-5)


def test_dice_averages_over_the_classes_that_are_present():
    probability = [[[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]]
    value = evaluate(losses.dice, logits_of(probability), image([[0, 0]], np.uint8), np.ones((1, 1, 2), np.float32))
    assert float(value[0]) == pytest.approx(2 * (1 - 2 * 1.1 / (1.1 + 2)), rel=1e-5)


def test_lovasz_softmax_equals_hand_computed_value():
    value = evaluate(losses.lovasz_softmax, logits_of(PROBABILITY), LABEL, WEIGHT)
    # The errors of the counted pixels are 0.3, 0.6, 0.2 for both classes. Pixels become mistakes in order of error, the
    # largest first. Class 0 (true at 0.3 and 0.6) has Jaccard losses 1/2, 2/2, 3/3 after one, two, three mistakes.
    # Class 1 (true at 0.2) has 1/2, 2/3, 3/3.
    first = 0.6 * 1 / 2 + 0.3 * 1 / 2 + 0.2 * 0
    second = 0.6 * 1 / 2 + 0.3 * (2 / 3 - 1 / 2) + 0.2 * (1 - 2 / 3)
    assert float(value[0]) == pytest.approx(6 * (first + second) / 2, rel=1e-5)


def test_lovasz_softmax_of_certain_predictions_is_the_mean_jaccard_loss():
    label = np.array([[[0, 0, 1, 1, 2, 255]]], np.uint8)
    said = np.array([[[0, 1, 1, 0, 2, 1]]])
    value = evaluate(
        losses.lovasz_softmax, 100.0 * np.eye(4, dtype=np.float32)[said], label, (label != 255).astype(np.float32)
    )
    assert float(value[0]) == pytest.approx(5 * (1 - (1 / 3 + 1 / 3 + 1) / 3), rel=1e-5)


HARD = [[[0.9, 0.1], [0.6, 0.4]], [[0.5, 0.5], [0.2, 0.8]]]  # the ground truth is 0 everywhere


@pytest.mark.parametrize(
    ("threshold", "share", "kept"),
    [
        (0.55, 0.25, (0.5, 0.2)),  # the threshold keeps more pixels than the share
        (0.1, 0.25, (0.2,)),
        (0.1, 0.26, (0.5, 0.2)),  # at least this share, so 1.04 pixels are rounded up to two
        (0.3, 0.75, (0.6, 0.5, 0.2)),  # the share keeps more pixels than the threshold
        (0.0, 1.0, (0.9, 0.6, 0.5, 0.2)),
        (0.1, 0.0, ()),
        (1.0, 0.0, (0.9, 0.6, 0.5, 0.2)),
    ],
)
def test_ohem_keeps_the_hard_pixels(threshold, share, kept):
    weight = {0.9: 1.0, 0.6: 2.0, 0.5: 3.0, 0.2: 4.0}

    def loss(logits, threshold, share):
        label = jnp.zeros((1, 2, 2), jnp.uint8)
        weights = jnp.asarray(image([[1.0, 2.0], [3.0, 4.0]], np.float32))
        return losses.ohem(logits, label, weights, threshold, share)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits_of(HARD), threshold, share)
    mean = sum(-weight[p] * math.log(p) for p in kept) / sum(weight[p] for p in kept) if kept else 0.0
    assert float(value) == pytest.approx(10 * mean, rel=1e-5)
    pixels = np.asarray(HARD)[..., 0]
    np.testing.assert_array_equal(np.abs(gradient[0]).sum(-1) > 0, np.isin(pixels, kept))


def test_ohem_keeps_all_pixels_that_tie_with_the_last_one():
    probability = [[[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]]]
    label = np.array([[[0, 0, 0, 0, 0, 255]]], np.uint8)
    weight = np.array([[[1, 2, 1, 1, 1, 0]]], np.float32)
    # 0.4 of five pixels are two.
    value = evaluate(losses.ohem, logits_of(probability), label, weight, threshold=0.1, share=0.4)
    assert float(value[0]) == pytest.approx(6 * -(4 * math.log(0.6) + math.log(0.3)) / 5, rel=1e-5)


def test_ohem_applies_its_share_per_image():
    """An image of easy pixels keeps its share of counted pixels, even if another image has harder pixels."""
    probability = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1, 0.05, 0.01]).reshape(2, 1, 4)
    logits = np.log(np.stack([probability, 1 - probability], -1)).astype(np.float32)
    weight = np.array([[[1, 1, 1, 0]], [[1, 1, 1, 1]]], np.float32)
    value = evaluate(losses.ohem, logits, np.zeros((2, 1, 4), np.uint8), weight, threshold=0.0, share=0.3)
    np.testing.assert_allclose(value, [-3 * math.log(0.7), -4 * (math.log(0.05) + math.log(0.01)) / 2], rtol=1e-5)


def test_class_weights_give_the_weighted_mean():
    """The mean is sum(w * l) / sum(w), as in torch's CrossEntropyLoss(weight=..., ignore_index=255)."""
    weights = (0.5, 2.0)
    weight = losses.pixel_weights(jnp.asarray(LABEL), jnp.array([True]), weights, None)
    np.testing.assert_array_equal(weight, [[[0.5, 0.5], [2.0, 0.0]]])
    value = evaluate(losses.cross_entropy, logits_of(PROBABILITY), LABEL, weight, label_smoothing=0.0)
    by_hand = -(0.5 * math.log(0.7) + 0.5 * math.log(0.4) + 2 * math.log(0.8)) / (0.5 + 0.5 + 2)
    assert float(value[0] / jnp.sum(weight)) == pytest.approx(by_hand, rel=1e-5)


def test_pixel_weights_multiply_class_weights_weight_map_and_mask():
    label = jnp.array([[[0, 1, 255]], [[1, 1, 0]], [[0, 1, 1]]], jnp.uint8)
    weight_map = jnp.array([[[3.0, 5.0, np.nan]], [[7.0, 1.0, 2.0]], [[1.0, 1.0, 1.0]]], jnp.float32)
    mask = jnp.array([True, True, False])
    plain = losses.pixel_weights(label, mask, (), None)
    assert plain.dtype == jnp.float32
    np.testing.assert_array_equal(plain, [[[1, 1, 0]], [[1, 1, 1]], [[0, 0, 0]]])
    whole = losses.pixel_weights(label, mask, (2.0, 10.0), weight_map)
    np.testing.assert_array_equal(whole, [[[6, 50, 0]], [[70, 10, 4]], [[0, 0, 0]]])


# Properties.


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_dice_equals_loops(seed):
    logits, label, weight = draw(seed)
    probability, expected = softmax(logits), []
    for p, t, w in zip(probability, label, weight, strict=True):
        by_class = []
        for c in set(t[t != 255].tolist()):
            both = sum(w[i] * p[i][c] for i in np.ndindex(t.shape) if t[i] == c)
            sizes = sum(w[i] * (p[i][c] + (t[i] == c)) for i in np.ndindex(t.shape))
            by_class.append(1 - 2 * both / sizes)
        expected.append(w.sum() * np.mean(by_class) if by_class else 0.0)
    np.testing.assert_allclose(compiled("dice")(logits, label, weight)[0], expected, rtol=2e-5)


def lovasz_by_definition(logits, label, weight):
    """Compute equations 6, 8 and 9 of Berman et al. 2018, the Jaccard loss of growing sets of mistakes. Return [B] float64."""
    values = []
    for p, t, w in zip(softmax(logits), label, weight, strict=True):
        counted = w > 0
        p, t = p[counted], t[counted]
        by_class = []
        for c in np.unique(t):
            errors = np.where(t == c, 1 - p[:, c], p[:, c])
            mistakes, before, value = set(), 0.0, 0.0
            for pixel in np.argsort(-errors):
                mistakes.add(int(pixel))
                jaccard = len(mistakes) / len(mistakes | set(np.flatnonzero(t == c).tolist()))
                value += errors[pixel] * (jaccard - before)
                before = jaccard
            by_class.append(value)
        values.append(w.sum(dtype=np.float64) * np.mean(by_class) if by_class else 0.0)
    return np.array(values)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.1, 2.0, 8.0]))
def test_lovasz_softmax_equals_its_definition(seed, ignored, scale):
    logits, label, weight = draw(seed, ignored, scale)
    value, _ = compiled("lovasz_softmax")(logits, label, weight)
    np.testing.assert_allclose(value, lovasz_by_definition(logits, label, weight), rtol=2e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_lovasz_softmax_equals_its_definition_for_tied_errors(seed):
    logits, label, weight = draw(seed)
    logits = np.round(logits / 2)
    value, _ = compiled("lovasz_softmax")(logits, label, weight)
    np.testing.assert_allclose(value, lovasz_by_definition(logits, label, weight), rtol=2e-5, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_lovasz_softmax_gradient_equals_finite_differences(seed):
    logits, label, weight = draw(seed)
    _, gradient = compiled("lovasz_softmax")(logits, label, weight)
    direction, step = np.random.default_rng(seed + 1).normal(size=SHAPE), 1e-7
    above, below = (
        lovasz_by_definition(logits.astype(np.float64) + sign * step * direction, label, weight) for sign in (1, -1)
    )
    np.testing.assert_allclose(
        np.sum(gradient * direction, axis=(1, 2, 3)), (above - below) / (2 * step), rtol=1e-3, atol=1e-4
    )


def test_jaccard_slopes_are_accurate_in_a_large_image():
    """Neighbouring Jaccard losses of 200,000 pixels differ in the sixth digit. Their float32 differences would be noise."""
    rng = np.random.default_rng(0)
    errors, truth = rng.permutation(200_000).astype(np.float32), (rng.random(200_000) < 0.1).astype(np.int32)
    order = np.argsort(-errors)
    found = np.cumsum(truth[order])
    jaccard = 1 - (found[-1] - found) / (found[-1] + np.arange(1, len(order) + 1) - found)
    expected = np.empty(len(order))
    expected[order] = np.diff(jaccard, prepend=0.0)
    slopes = jax.jit(losses._jaccard_slopes)(errors[None, None], truth[None, None])[0, 0]
    np.testing.assert_allclose(slopes, expected, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from([2.0**-2, 2.0**-4, 2.0**-24]))
def test_both_implementations_of_the_sort_give_the_same_order(seed, step):
    """Errors in [0, 1] have many ties, some ties or no ties."""
    errors = jnp.float32(step * np.random.default_rng(seed).integers(0, 1 / step + 1, (2, 3, 16)))
    tag = jnp.broadcast_to(2 * jnp.arange(16, dtype=jnp.int32), errors.shape)
    packed, plain = losses._ordered_packed(errors, tag), losses._ordered(errors, tag)
    assert packed.dtype == plain.dtype == jnp.int32
    np.testing.assert_array_equal(packed, plain)
    np.testing.assert_array_equal(plain, 2 * np.argsort(-errors, axis=-1, kind="stable"))


def test_lovasz_softmax_has_no_64_bit_integers_on_accelerators():
    traced = jax.jit(losses.lovasz_softmax).trace(*draw(0))
    wide = {
        platform: re.search(r"stablehlo.convert.*xi64>", traced.lower(lowering_platforms=(platform,)).as_text())
        for platform in ("cpu", "tpu", "cuda")
    }
    assert wide.pop("cpu") and not any(wide.values())


@pytest.mark.parametrize("name", ["dice", "lovasz_softmax", "focal", "ohem"])
def test_loss_of_certain_correct_predictions_is_zero(name):
    _, label, weight = draw(3)
    logits = 200.0 * np.asarray(jax.nn.one_hot(label, SHAPE[-1]))
    value, gradient = compiled(name)(logits, label, weight)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    assert np.all(np.isfinite(gradient))


def test_focal_with_gamma_0_equals_cross_entropy():
    logits, label, weight = map(jnp.asarray, draw(4))

    def total(loss, **fields):
        return jax.jit(jax.value_and_grad(lambda logits: jnp.sum(loss(logits, label, weight, **fields))))(logits)

    focal, entropy = total(losses.focal, gamma=0.0), total(losses.cross_entropy, label_smoothing=0.0)
    np.testing.assert_allclose(focal[0], entropy[0], rtol=1e-5)
    np.testing.assert_allclose(focal[1], entropy[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_is_finite_at_every_probability(gamma):
    """The value and the derivative by the margin of the true class's logit equal the formula in float64."""
    margin = np.array([0.0, 1e-3, 10.0, 18.0, 500.0, -500.0])

    def loss(margin):
        logits = jnp.stack([margin, jnp.zeros(6)], axis=-1)[:, None, None]
        by_image = losses.focal(logits, jnp.zeros((6, 1, 1), jnp.uint8), jnp.ones((6, 1, 1)), gamma)
        return jnp.sum(by_image), by_image

    slope, value = jax.jit(jax.grad(loss, has_aux=True))(margin.astype(np.float32))
    p, q = 1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(margin))
    log_p = -np.logaddexp(0.0, -margin)
    np.testing.assert_allclose(value, -(q**gamma) * log_p, rtol=1e-3, atol=1e-6)
    # d/dm of -(1-p)^g log p, with dp/dm = p (1-p)
    np.testing.assert_allclose(slope, gamma * p * q**gamma * log_p - q ** (gamma + 1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_without_weight_have_no_effect_and_no_gradient(name):
    """Neither their logits, finite or not, nor their labels have an effect."""
    logits, label, weight = draw(5, ignored=0.4)
    weight[1, 0] = 0.0  # a labelled pixel whose class has weight 0
    counted = weight > 0
    value, gradient = compiled(name)(logits, label, weight)
    assert np.all(value > 0)
    np.testing.assert_array_equal(gradient[~counted], 0.0)
    for other in (77.0, np.nan, -np.inf):
        changed = np.where(counted[..., None], logits, other).astype(np.float32)
        again = compiled(name)(changed, np.where(counted, label, 2).astype(np.uint8), weight)
        np.testing.assert_array_equal(again[0], value)
        np.testing.assert_array_equal(again[1], gradient)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_without_weight_equal_cropped_pixels(name):
    logits, label, weight = draw(6, ignored=0.0)
    label[:, -1], weight[:, -1] = 255, 0.0
    value, gradient = compiled(name)(logits, label, weight)
    cut, cut_gradient = compiled(name)(logits[:, :-1], label[:, :-1], weight[:, :-1])
    np.testing.assert_allclose(value, cut, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, :-1], cut_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_image_without_counted_pixels_has_zero_loss_and_gradient(name):
    logits, label, weight = draw(7)
    weight[2] = 0.0
    value, gradient = compiled(name)(logits, label, weight)
    assert value[2] == 0.0 and np.all(np.asarray(value)[[0, 1, 3]] > 0)
    assert np.all(np.isfinite(gradient)) and not np.any(gradient[2])
    value, gradient = compiled(name)(logits, np.full_like(label, 255), np.zeros_like(weight))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_nan_logits_give_a_nan_loss(name):
    logits, label, weight = draw(8, ignored=0.0)
    logits[1, 0, 0] = np.nan
    value, _ = compiled(name)(logits, label, weight)
    np.testing.assert_array_equal(np.isnan(value), [False, True, False, False])


@pytest.mark.parametrize("name", NAMES)
def test_weight_of_an_image_scales_its_loss(name):
    logits, label, weight = draw(9)
    value, _ = compiled(name)(logits, label, weight)
    scaled, _ = compiled(name)(logits, label, weight * np.array([1, 2, 4, 0.5], np.float32)[:, None, None])
    np.testing.assert_allclose(scaled, value * np.array([1, 2, 4, 0.5]), rtol=1e-5)


# From the config.


def make_losses(**fields):
    """Make the losses with these fields, and switch the others off."""
    own = {name: {"factor": 0.0} | fields.get(name, {}) for name in NAMES}
    fields_check("config.task.losses", own, losses.Losses)
    return losses.make_losses(fill(own, losses.Losses))


@cache
def all_losses():
    made = make_losses(**{name: {"factor": 0.5} for name in NAMES})
    return jax.jit(lambda *pixels: {name: jnp.sum(loss(*pixels)) for name, (_, loss) in made.items()})


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.5, 0.95]))
def test_losses_of_two_half_batches_sum_to_the_whole(seed, ignored):
    logits, label, weight = draw(seed, ignored)
    whole = all_losses()(logits, label, weight)
    halves = [all_losses()(logits[part], label[part], weight[part]) for part in (slice(0, 2), slice(2, 4))]
    added = jax.tree.map(lambda first, second: first + second, *halves)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), whole, added)


def test_make_losses_uses_the_factors_and_fields():
    logits, label, weight = draw(10)
    made = make_losses(
        cross_entropy=dict(factor=2.0, label_smoothing=0.2),
        focal=dict(factor=0.5, gamma=1.5),
        ohem=dict(factor=3, threshold=0.4, share=0.5),
    )
    parts = {
        "cross_entropy": evaluate(losses.cross_entropy, logits, label, weight, label_smoothing=0.2),
        "focal": evaluate(losses.focal, logits, label, weight, gamma=1.5),
        "ohem": evaluate(losses.ohem, logits, label, weight, threshold=0.4, share=0.5),
    }
    assert {name: factor for name, (factor, _) in made.items()} == {"cross_entropy": 2.0, "focal": 0.5, "ohem": 3}
    for name, (_, loss) in made.items():
        np.testing.assert_allclose(evaluate(loss, logits, label, weight), parts[name], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (dict(diec=dict(factor=1.0)), r"losses\.diec is not a field of .*; did you mean 'dice'\?"),
        (dict(dice=1.0), r"losses\.dice=1\.0 is not valid; it must hold fields"),
        (dict(dice=dict(factor=-1.0)), r"losses\.dice\.factor=-1\.0 is out of its range; .* 0 or more"),
        (dict(dice=dict(factor=math.nan)), r"losses\.dice\.factor=nan is not valid"),
        (dict(dice=dict(factor=math.inf)), r"losses\.dice\.factor=inf is not valid"),
        (dict(dice=dict(factor="1")), r"losses\.dice\.factor='1' is not valid"),
        (dict(cross_entropy=dict(label_smoothing=1.0)), r"cross_entropy\.label_smoothing=1\.0 .* below 1"),
        (dict(cross_entropy=dict(label_smoothing=-0.1)), r"cross_entropy\.label_smoothing=-0\.1 .* 0 or more"),
        (dict(focal=dict(gamma=-1.0)), r"focal\.gamma=-1\.0 is out of its range"),
        (dict(focal=dict(gamma=math.inf)), r"focal\.gamma=inf is not valid"),
        (dict(ohem=dict(share=1.5)), r"ohem\.share=1\.5 is out of its range; .* 0 or more and 1 at most"),
        (dict(ohem=dict(threshold=-0.1)), r"ohem\.threshold=-0\.1 is out of its range"),
        (dict(ohem=(0.7,)), r"losses\.ohem=\(0\.7,\) is not valid"),
    ],
)
def test_invalid_fields_raise_a_one_line_error(fields, line):
    others = {name: {} for name in NAMES if name not in fields}
    with pytest.raises(UserError, match=line) as error:
        fields_check("config.task.losses", others | fields, losses.Losses)
    assert "\n" not in str(error.value)


def test_switching_all_losses_off_raises_a_user_error():
    with pytest.raises(UserError, match=r"config\.task\.losses: every factor is 0"):
        make_losses()
    with pytest.raises(UserError, match=r"config\.task\.losses\.ohem: threshold and share are both 0"):
        make_losses(ohem=dict(factor=1.0, threshold=0.0, share=0.0))


def test_loss_with_factor_0_is_not_computed():
    assert make_losses(cross_entropy=dict(factor=1.0)).keys() == {"cross_entropy"}
    assert make_losses(ohem=dict(factor=1.0), dice=dict(factor=0.5)).keys() == {"dice", "ohem"}


@pytest.mark.parametrize(
    ("class_weights", "line"),
    [
        ((1.0, 2.0), r"config.task.class_weights has 2 values, but the data has 3 classes"),
        ((0.0, 0.0, 0.0), r"config.task.class_weights=.* set one above 0"),
    ],
)
def test_invalid_class_weights_raise_a_one_line_error(class_weights, line):
    with pytest.raises(UserError, match=line) as error:
        losses.check_class_weights(class_weights, 3)
    assert "\n" not in str(error.value) and "--mode=datacheck" in str(error.value)


@pytest.mark.parametrize("class_weights", [(), (1.0, 0.0, 2), [1.0, 1.0, 1.0]])
def test_valid_class_weights_pass_the_check(class_weights):
    losses.check_class_weights(class_weights, 3)
