"""The optimiser step over a global batch, for any model and task."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from experiments.run import state as states
from experiments.run.state import Architecture, TrainState, Variables
from experiments.tasks.base import Arrays, Mean, Means, Task, total_loss
from models.layers import KEPT

recompute = partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
Step = Callable[[TrainState, Arrays, jax.Array], tuple[TrainState, Arrays]]


def make_train_step(
    config: ConfigDict, task: Task, architecture: Architecture, optimizer: optax.GradientTransformation
) -> Step:
    """Return the function (state, global batch, the run's key) -> (next state, scalars to log).

    It is pure, and meant to be jitted with the state donated. With `optim.accumulate` = k the batch is processed in k parts.
    Each term of the loss is divided by its weight over the whole batch, so the step equals that of the whole batch, except
    for batch statistics, which are those of a part. Randomness is fold_in(key, step). With `train.remat` the backward pass
    recomputes the activations that `layers.keep` does not mark.
    """
    parts, decay = config.optim.accumulate, config.optim.ema

    def run(params: Variables, rest: Variables, batch: Arrays, key: jax.Array) -> tuple[Means, Means, Variables]:
        """Return the terms, the logs, and `rest` as the network left it."""
        model = architecture.merge(params | rest)
        outputs = task.apply(model, batch, train=True, rngs=nnx.Rngs(key))
        after = states.variables_of(model)
        terms, logs = task.loss(outputs, batch)
        return terms, logs, {name: after[name] for name in rest}

    if config.train.remat:
        run = recompute(run)

    def differentiate(params, rest, batch, key, weights: Arrays | None):
        """Return (gradients, (terms, logs, rest)). The terms are divided by `weights`, or by their own where it is None."""

        def loss(params):
            terms, logs, after = run(params, rest, batch, key)
            divided = {
                name: _with_weight(term, weights[name] if weights else term.weight) for name, term in terms.items()
            }
            return total_loss(divided), (terms, logs, after)

        return jax.grad(loss, has_aux=True)(params)

    def accumulate(params, rest, batch, key):
        # Row i goes to part i % k: every device keeps its own rows.
        split = jax.tree.map(lambda rows: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0), batch)
        numbered = jnp.arange(parts), split

        # The weights alone. XLA drops the parts of the network that they do not depend on.
        def weigh(carry, index_and_rows):
            index, rows = index_and_rows
            terms, _, _ = run(params, rest, rows, jax.random.fold_in(key, index))
            return carry, {name: term.weight for name, term in terms.items()}

        _, weights = jax.lax.scan(weigh, None, numbered)
        weights = jax.tree.map(lambda weight: weight.sum(0), weights)

        def add(carry, index_and_rows):
            rest, gradients = carry
            index, rows = index_and_rows
            own, (terms, logs, rest) = differentiate(params, rest, rows, jax.random.fold_in(key, index), weights)
            return (rest, jax.tree.map(jnp.add, gradients, own)), (terms, logs)

        start = rest, jax.tree.map(jnp.zeros_like, params)
        (rest, gradients), means = jax.lax.scan(add, start, numbered)
        return gradients, (*jax.tree.map(lambda values: values.sum(0), means), rest)

    def step(state: TrainState, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(key, state.step)
        if parts == 1:
            gradients, (terms, logs, rest) = differentiate(state.params, state.rest, batch, key, None)
        else:
            gradients, (terms, logs, rest) = accumulate(state.params, state.rest, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = cast(Variables, optax.apply_updates(state.params, updates))
        ema = states.update_ema(state.ema, params, rest, decay, state.step) if decay else {}
        scalars = {"loss": total_loss(terms)} | {name: mean.value() for name, mean in (terms | logs).items()}
        scalars["grad_norm"] = optax.global_norm(gradients)
        return TrainState(state.step + 1, params, rest, opt_state, ema), scalars

    return step


def compile_step(
    step: Callable[[TrainState, Arrays, jax.Array], tuple[TrainState, Any]],
    state: TrainState,
    batch: Arrays,
    key: jax.Array,
    options: dict | None = None,
) -> jax.stages.Compiled:
    """Compile a step ahead of time. A batch of another shape is then an error, never a silent second compilation.

    `options` are options of XLA.
    """
    shardings = jax.tree.map(lambda array: array.sharding, state)
    lowered = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)).lower(state, batch, key)
    return lowered.compile(compiler_options=options)


def _with_weight(term: Mean, weight: jax.Array) -> Mean:
    """Return the term with `weight` as its divisor, a constant for the gradient."""
    return dataclasses.replace(term, weight=jax.lax.stop_gradient(weight))
