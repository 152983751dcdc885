"""Modules whose arrays numpy draws, because XLA compiles a program for every shape that jax draws."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

NEUTRAL = {"scale": 1.0, "var": 1.0, "bias": 0.0, "mean": 0.0}


def draw(make: Callable[[], Any]) -> Any:
    """Return the module that `make` makes, with other initial values than its own.

    Kernels keep the variance of their inputs, and norms and biases change nothing.
    """
    module, rng = nnx.eval_shape(make), np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        shape = variable.shape
        if path[-1] == "kernel":
            put(variable, rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1])))
        else:
            put(variable, np.full(shape, NEUTRAL[path[-1]]))
    return module


def disturb(module: Any, deviation: float) -> Any:
    """Add Gaussian noise to every parameter of a module, and return the module."""
    rng = np.random.default_rng(1)
    for _, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        put(variable, np.asarray(variable[...]) + deviation * rng.standard_normal(variable.shape))
    return module


def put(variable: nnx.Variable, value: np.ndarray) -> None:
    """Replace a variable's array. Assigning to `[...]` would compile a program."""
    assert value.shape == variable.shape
    variable.set_value(jnp.asarray(value, variable.dtype))
