"""Modules whose arrays numpy draws, because XLA compiles a program for every shape that jax draws."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx


def draw(make: Callable, noise: float = 0.0, seed: int = 0):
    """Return the module that `make` makes, with kernels that keep the variance, and neutral norms and biases.

    Every parameter gets `noise` of this deviation, so that none is 0 or 1.
    """
    module, rng = nnx.eval_shape(make), np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        shape = variable.shape
        if path[-1] == "kernel":
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        else:
            value = np.full(shape, 1.0 if path[-1] in ("scale", "var") else 0.0)
        if isinstance(variable, nnx.Param):
            value += noise * rng.standard_normal(shape)
        put(variable, value)
    return module


def put(variable: nnx.Variable, value: np.ndarray) -> None:
    """Replace the whole array of a variable, for which an assignment would compile a program."""
    assert value.shape == variable.shape
    variable.set_value(jnp.asarray(value, variable.dtype))
