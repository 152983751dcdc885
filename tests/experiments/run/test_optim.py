import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from errors import UserError
from experiments.run import optim

PARAMS = {
    "encoder/conv/kernel": jnp.full((2, 2), 2.0),
    "encoder/norm/scale": jnp.full(2, 2.0),
    "head/kernel": jnp.ones((1, 2)),
}


def fields(**changes):
    config = common.get_config().optim
    config.update(changes)
    return config


def updates(gradient=1.0, steps=10, **changes):
    optimizer = optim.make_optimizer(fields(**changes), steps, list(PARAMS))
    gradients = {name: jnp.full_like(value, gradient) for name, value in PARAMS.items()}
    return optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(schedule="constant"), {0: 1.0, 99: 1.0}),
        (dict(schedule="cosine"), {0: 1.0, 50: 0.5, 100: 0.0}),
        (dict(schedule="cosine", final_lr_fraction=0.1), {100: 0.1}),
        (dict(schedule="poly", power=0.9), {0: 1.0, 50: 0.5**0.9, 100: 0.0}),
        (dict(schedule="step", boundaries=(0.5, 0.75), decay=0.1), {49: 1.0, 51: 0.1, 76: 0.01}),
        (dict(schedule="constant", warmup_steps=10), {0: 0.0, 5: 0.5, 10: 1.0, 50: 1.0}),
        (dict(schedule="constant", warmup_steps=10, warmup_from=0.1), {0: 0.1, 5: 0.55, 10: 1.0}),
        (dict(schedule="cosine", warmup_steps=20), {10: 0.5, 20: 1.0, 60: 0.5, 100: 0.0}),
    ],
)
def test_schedules_have_the_expected_rates(changes, expected):
    schedule = optim.make_schedule(fields(lr=1.0, **changes), 100)
    assert {step: pytest.approx(value, abs=1e-6) for step, value in expected.items()} == {
        step: float(schedule(step)) for step in expected
    }


@pytest.mark.parametrize(("warmup_steps", "steps", "highest"), [(1000, 10, 5), (10, 10, 5), (9, 10, 9), (5, 1, 0)])
def test_a_trial_of_a_few_steps_has_a_shorter_warmup(warmup_steps, steps, highest, capsys):
    asked = fields(lr=1.0, schedule="cosine", warmup_steps=warmup_steps)
    schedule = optim.make_schedule(asked, steps)
    assert max(range(steps), key=lambda step: float(schedule(step))) == highest and float(schedule(highest)) == 1.0
    optim.warn_of_short_warmup(asked, steps)
    told = capsys.readouterr().err
    if highest == warmup_steps:
        assert not told
    else:
        said = f"config.optim.warmup_steps={warmup_steps} leaves no other step of config.train.steps={steps}"
        assert told == f"warning: {said}; the warm-up is shortened to {highest} step{'s' if highest != 1 else ''}\n"


def test_warmup_is_also_shortened_for_a_part_of_the_parameters(capsys):
    asked = fields(partition=(("head/", (("warmup_steps", 8),)),))
    optim.make_optimizer(asked, 4, list(PARAMS))
    optim.warn_of_short_warmup(asked, 4)
    assert "'head/': warmup_steps=8 leaves no other step" in capsys.readouterr().err


def test_weight_decay_affects_only_kernels():
    decayed = updates(gradient=0.0, name="adamw", lr=0.1, schedule="constant", weight_decay=0.5)
    np.testing.assert_allclose(decayed["encoder/conv/kernel"], -0.1 * 0.5 * 2.0)
    np.testing.assert_allclose(decayed["encoder/norm/scale"], 0.0)


def test_sgd_momentum_equals_the_classic_formula():
    optimizer = optim.make_optimizer(fields(name="sgd", lr=1.0, schedule="constant", momentum=0.9), 10, ["w"])
    params, state = {"w": jnp.zeros((1, 1))}, optimizer.init({"w": jnp.zeros((1, 1))})
    for _ in range(3):  # velocities 1, 1.9, 2.71
        step, state = optimizer.update({"w": jnp.ones((1, 1))}, state, params)
        params = optax.apply_updates(params, step)
    np.testing.assert_allclose(params["w"], -(1 + 1.9 + 2.71), rtol=1e-6)


def test_lr_multipliers_take_the_first_match():
    rates = (("encoder/norm", 0.0), ("encoder/", 0.1))
    scaled = updates(name="sgd", lr=1.0, schedule="constant", momentum=0.0, lr_multipliers=rates)
    assert {name: float(value.ravel()[0]) for name, value in scaled.items()} == {
        "encoder/conv/kernel": pytest.approx(-0.1),
        "encoder/norm/scale": 0.0,
        "head/kernel": -1.0,
    }


def test_part_of_the_parameters_has_its_own_optimiser():
    """Its fields replace the others. Clipping is per part, multipliers apply to all, and decay excludes biases in both."""
    parted = updates(
        gradient=1.0,
        name="sgd",
        lr=1.0,
        schedule="constant",
        momentum=0.0,
        clip=1.0,
        lr_multipliers=(("head/kernel", 0.1),),
        partition=(("head/", (("lr", 0.5), ("clip", 0.0))),),
    )
    norm = np.sqrt(4 + 2)  # norm of the six gradients of the encoder
    np.testing.assert_allclose(parted["encoder/conv/kernel"], -1 / norm, rtol=1e-6)
    np.testing.assert_allclose(parted["head/kernel"], -0.05, rtol=1e-6)
    decayed = updates(
        gradient=0.0,
        name="adamw",
        lr=0.1,
        schedule="constant",
        weight_decay=0.5,
        partition=(("head/", (("weight_decay", 0.1),)),),
    )
    np.testing.assert_allclose(decayed["encoder/conv/kernel"], -0.1 * 0.5 * 2.0)
    np.testing.assert_allclose(decayed["encoder/norm/scale"], 0.0)
    np.testing.assert_allclose(decayed["head/kernel"], -0.1 * 0.1)


def test_clipping_is_by_the_global_norm():
    clipped = updates(gradient=3.0, name="sgd", lr=1.0, schedule="constant", momentum=0.0, clip=0.5)
    assert float(optax.global_norm(clipped)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (dict(lr_multipliers=(("encodr/", 0.1),)), ["optim.lr_multipliers", "encodr/", "encoder"]),
        (dict(lr_multipliers=(("(", 0.1),)), ["optim.lr_multipliers", "regular expression"]),
        (dict(partition=(("hed/", (("lr", 0.1),)),)), ["optim.partition", "hed/", "head"]),
    ],
)
def test_wrong_patterns_are_reported_in_one_line(changes, names):
    with pytest.raises(UserError) as caught:
        updates(**changes)
    assert "\n" not in str(caught.value)
    assert all(name in str(caught.value) for name in names)
