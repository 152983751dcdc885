"""Random images, and calls that do not change the model."""

from functools import partial

import jax
import numpy as np
from flax import nnx


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@partial(jax.jit, static_argnums=(0, 3))
def forward(graphdef, state, images, train, key):
    rngs = None if key is None else nnx.Rngs(dropout=key)
    return nnx.merge(graphdef, state, copy=True)(images, train=train, rngs=rngs)


def call(model, images, train=False, seed=None):
    """Return the logits as a numpy array, because slicing a jax array compiles a program.

    `seed` is the seed of dropout.
    """
    return np.asarray(forward(*nnx.split(model), images, train, None if seed is None else jax.random.key(seed)))
