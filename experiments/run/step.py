"""One optimiser step over a global batch, for any model and task."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from experiments.run import state as states
from experiments.run.state import Architecture, TrainState
from experiments.tasks.base import Task


def make_train_step(
    config: ConfigDict, task: Task, architecture: Architecture, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """(state, global batch) -> (next state, scalars to log). Pure; to be jitted with the state donated.

    With `optim.accumulate` = k the batch is worked through in k parts whose sums add up, so that the step is the large
    batch's own (batch statistics excepted, which are those of a part). Randomness is fold_in(seed.init, step).
    """
    parts, decay = config.optim.accumulate, config.optim.ema

    def loss(params, rest, batch, key):
        model = architecture.merge(params | rest)
        (total, weight), logs = task.loss(model, batch, train=True, rngs=nnx.Rngs(key))
        after = states.variables_of(model)
        return total, ({name: after[name] for name in rest}, {"loss": (total, weight)} | logs)

    def part(params, rest, batch, key):
        (_, (rest, sums)), gradients = jax.value_and_grad(loss, has_aux=True)(params, rest, batch, key)
        return rest, sums, gradients

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed.init), state.step)
        if parts == 1:
            rest, sums, gradients = part(state.params, state.rest, batch, key)
        else:
            # Row i goes to part i % k, so that every device keeps its own rows.
            split = jax.tree.map(lambda rows: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0), batch)

            def add(carry, index_and_rows):
                (rest, *totals), (index, rows) = carry, index_and_rows
                rest, *parts_own = part(state.params, rest, rows, jax.random.fold_in(key, index))
                return (rest, *jax.tree.map(jnp.add, totals, parts_own)), None

            first = part(
                state.params, state.rest, jax.tree.map(lambda rows: rows[0], split), jax.random.fold_in(key, 0)
            )
            others = jnp.arange(1, parts), jax.tree.map(lambda rows: rows[1:], split)
            (rest, sums, gradients), _ = jax.lax.scan(add, first, others)
        gradients = jax.tree.map(lambda gradient: divide(gradient, sums["loss"][1]), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = states.update_ema(state.ema, params, rest, decay, state.step) if decay else {}
        logs = {name: divide(total, count) for name, (total, count) in sums.items()}
        logs["grad_norm"] = optax.global_norm(gradients)
        return TrainState(state.step + 1, params, rest, opt_state, ema), logs

    return step


def divide(total: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean; 0 where nothing counted, so that a batch without a single label is a step without a gradient."""
    return total / jnp.where(weight > 0, weight, 1.0)


def compile_step(step: Callable, state: TrainState, batch: dict[str, jax.Array]) -> jax.stages.Compiled:
    """Compiled once, ahead of time: a batch of another shape is then an error, never a silent second compilation."""
    shardings = jax.tree.map(lambda array: array.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)).lower(state, batch).compile()
