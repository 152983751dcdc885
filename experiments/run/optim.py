"""Optimisers and learning-rate schedules by name, from optax. Parameters are flat, `{path: array}`."""

import re
from collections.abc import Callable, Hashable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from errors import UserError, warn
from wording import count


def shorten_warmup(warmup_steps: int, steps: int) -> int:
    """Return the number of warm-up steps of a run of `steps` steps.

    If `warmup_steps` would leave no other step, as in a short trial, half of the steps warm up.
    """
    return warmup_steps if warmup_steps < steps else steps // 2


def warn_of_short_warmup(optim: ConfigDict, steps: int) -> None:
    """Warn about each warm-up that is shortened, of the run or of a part of config.optim.partition."""
    parts = [(f"config.optim.partition, {pattern!r}: ", dict(changed)) for pattern, changed in optim.partition]
    for where, own in [("config.optim.", {"warmup_steps": optim.warmup_steps}), *parts]:
        asked = own.get("warmup_steps", 0)
        taken = shorten_warmup(asked, steps)
        if steps and taken < asked:
            warn(
                f"{where}warmup_steps={asked} leaves no other step of config.train.steps={steps}; the warm-up is shortened to "
                f"{count(taken, 'step')}"
            )


def make_schedule(optim: ConfigDict, steps: int) -> optax.Schedule:
    """Make the function from a step to its learning rate.

    The rate rises linearly from `warmup_from` * lr to lr, then the named schedule covers the remaining steps. The number of
    warm-up steps comes from `shorten_warmup`.
    """
    if not steps:
        return optax.constant_schedule(optim.lr)  # never called
    warming = shorten_warmup(optim.warmup_steps, steps)
    rest = steps - warming
    schedules: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(optim.lr),
        "cosine": lambda: optax.cosine_decay_schedule(optim.lr, rest, alpha=optim.final_lr_fraction),
        "poly": lambda: optax.polynomial_schedule(optim.lr, optim.lr * optim.final_lr_fraction, optim.power, rest),
        "step": lambda: optax.piecewise_constant_schedule(
            optim.lr, {round(rest * fraction): optim.decay for fraction in optim.boundaries}
        ),
    }
    main = schedules[optim.schedule]()
    if not warming:
        return main
    warmup = optax.linear_schedule(optim.warmup_from * optim.lr, optim.lr, warming)
    return optax.join_schedules([warmup, main], [warming])


def keeps_rates(optim: ConfigDict, done: int, before: int, steps: int) -> bool:
    """Return whether runs of `before` and `steps` steps have the same first `done` learning rates.

    The parts of config.optim.partition are compared too.
    """
    parts = [optim, *(_changed(optim, changed) for _, changed in optim.partition)]
    for part in parts:
        old, new = (jax.vmap(make_schedule(part, planned))(jnp.arange(done)) for planned in (before, steps))
        if not np.array_equal(old, new):
            return False
    return True


def make_optimizer(optim: ConfigDict, steps: int, names: list[str]) -> optax.GradientTransformation:
    """Make the optimiser with clipping, decoupled or classic weight decay, the schedule, and each path's factor on it.

    `names` are the paths of the trainable parameters. Raises UserError if a pattern of `optim.lr_multipliers` or
    `optim.partition` matches none. Each pattern of `optim.partition` has a separate optimiser with its own clipping.
    """
    factors = _factors(optim.lr_multipliers, names)
    if not optim.partition:
        return _chain(optim, steps, factors)
    found = match("optim.partition", [pattern for pattern, _ in optim.partition], names)
    labels = {name: f"partition_{found[name]}" if name in found else "others" for name in names}
    fields = {f"partition_{index}": changed for index, (_, changed) in enumerate(optim.partition)} | {"others": ()}
    chains: dict[Hashable, optax.GradientTransformation] = {
        label: _chain(_changed(optim, changed), steps, {name: factors[name] for name in names if labels[name] == label})
        for label, changed in fields.items()
    }
    return optax.partition(chains, labels)


def _changed(optim: ConfigDict, fields) -> ConfigDict:
    own = optim.copy_and_resolve_references()
    for field, value in fields:
        own[field] = value
    return own


def _chain(optim: ConfigDict, steps: int, factors: dict[str, float]) -> optax.GradientTransformation:
    """Make one optimiser. `factors` multiply the learning rate of each parameter, by its path."""
    optimizers: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adamw": lambda: optax.chain(
            optax.scale_by_adam(*optim.betas), optax.add_decayed_weights(optim.weight_decay, mask=_kernels)
        ),
        # L2 is added to the gradient before the momentum, as in older papers and in torch.optim.SGD.
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(optim.weight_decay, mask=_kernels), optax.trace(optim.momentum)
        ),
    }
    chain = [optax.clip_by_global_norm(optim.clip)] if optim.clip else []
    chain.append(optimizers[optim.name]())
    chain.append(optax.scale_by_learning_rate(make_schedule(optim, steps)))
    if any(factor != 1.0 for factor in factors.values()):
        chain.append(
            optax.stateless(
                lambda updates, _: jax.tree.map_with_path(lambda path, update: factors[path[0].key] * update, updates)
            )
        )
    return optax.chain(*chain)


def match(field: str, patterns, names) -> dict[str, int]:
    """Return the index of the first pattern that matches the beginning of each name. Raises UserError without a match."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UserError(f"config.{field}: {pattern!r} is not a regular expression ({error}); correct it") from None
    for pattern in compiled:
        if not any(map(pattern.match, names)):
            tops = sorted({name.split("/")[0] for name in names})
            raise UserError(
                f"config.{field}: no parameter's path begins with {pattern.pattern!r}; use one of {tops}, or a longer path"
            )
    found = {name: next((i for i, pattern in enumerate(compiled) if pattern.match(name)), -1) for name in names}
    return {name: index for name, index in found.items() if index >= 0}


def _factors(multipliers: tuple[tuple[str, float], ...], names: list[str]) -> dict[str, float]:
    found = match("optim.lr_multipliers", [pattern for pattern, _ in multipliers], names)
    return {name: multipliers[found[name]][1] if name in found else 1.0 for name in names}


def _kernels(params: Mapping[str, jax.Array]) -> dict[str, bool]:
    return jax.tree.map(lambda value: value.ndim > 1, params)
