"""Optimisers and learning-rate schedules by name, from optax. Parameters are flat: {path: array}."""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from errors import UserError, warn
from wording import count


def shorten_warmup(warmup_steps: int, steps: int) -> int:
    """Returns how many of a run's `steps` warm up: half of them where `warmup_steps` would leave nothing, as in a short trial."""
    return warmup_steps if warmup_steps < steps else steps // 2


def warn_of_short_warmup(optim: ConfigDict, steps: int) -> None:
    """Warns of each warm-up, of the run or of a part of config.optim.partition, that is shortened."""
    parts = [(f"config.optim.partition: of {pattern!r} ", dict(changed)) for pattern, changed in optim.partition]
    for where, own in [("config.optim.", {"warmup_steps": optim.warmup_steps}), *parts]:
        asked = own.get("warmup_steps", 0)
        taken = shorten_warmup(asked, steps)
        if steps and taken < asked:
            warn(
                f"{where}warmup_steps={asked} leaves nothing of config.train.steps={steps}: the warm-up is shortened to "
                f"{count(taken, 'step')}"
            )


def make_schedule(optim: ConfigDict, steps: int) -> optax.Schedule:
    """step -> learning rate: `warmup_steps` linear from `warmup_from` of lr, then the schedule that is named, over the rest.

    For how many steps warm up, see `shorten_warmup`.
    """
    if not steps:
        return optax.constant_schedule(optim.lr)  # that nobody asks
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
    """Returns whether the first `done` learning rates of a run of `before` steps are those of a run of `steps` steps.

    Of each part of config.optim.partition too.
    """
    parts = [optim, *(_changed(optim, changed) for _, changed in optim.partition)]
    for part in parts:
        old, new = (jax.vmap(make_schedule(part, planned))(jnp.arange(done)) for planned in (before, steps))
        if not np.array_equal(old, new):
            return False
    return True


def make_optimizer(optim: ConfigDict, steps: int, names: list[str]) -> optax.GradientTransformation:
    """Clipping, the optimiser, decoupled or classic weight decay, the schedule, and each path's own factor on it.

    `names` are the paths of the trainable parameters; a pattern of `optim.lr_multipliers` or `optim.partition` that matches none
    is an error. Each pattern of `optim.partition` has an optimiser of its own, clipping included.
    """
    factors = _factors(optim.lr_multipliers, names)
    if not optim.partition:
        return _chain(optim, steps, factors)
    found = match("optim.partition", [pattern for pattern, _ in optim.partition], names)
    labels = {name: f"partition_{found[name]}" if name in found else "others" for name in names}
    fields = {f"partition_{index}": changed for index, (_, changed) in enumerate(optim.partition)} | {"others": ()}
    chains = {
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
    """`factors` on the learning rate of each parameter, by its path."""
    optimizers: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adamw": lambda: optax.chain(
            optax.scale_by_adam(*optim.betas), optax.add_decayed_weights(optim.weight_decay, mask=_kernels)
        ),
        # L2 in the gradient before the momentum, as in the papers of the SGD era and in torch.optim.SGD.
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
    """name -> index of the first pattern that matches its beginning. Raises UserError for a pattern without a match."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UserError(f"config.{field}: {pattern!r} is not a regular expression ({error})") from None
    for pattern in compiled:
        if not any(map(pattern.match, names)):
            tops = sorted({name.split("/")[0] for name in names})
            raise UserError(
                f"config.{field}: no parameter's path begins with {pattern.pattern!r}; paths begin with {tops}"
            )
    found = {name: next((i for i, pattern in enumerate(compiled) if pattern.match(name)), -1) for name in names}
    return {name: index for name, index in found.items() if index >= 0}


def _factors(multipliers: tuple[tuple[str, float], ...], names: list[str]) -> dict[str, float]:
    found = match("optim.lr_multipliers", [pattern for pattern, _ in multipliers], names)
    return {name: multipliers[found[name]][1] if name in found else 1.0 for name in names}


def _kernels(params: Mapping[str, jax.Array]) -> dict[str, bool]:
    return jax.tree.map(lambda value: value.ndim > 1, params)
