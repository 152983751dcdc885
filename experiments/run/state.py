"""The state that a training step passes to the next.

Variables are flat dictionaries {"encoder/stem/conv/kernel": array}. Freezing, layer-wise rates, pretrained names and
checkpoints all use these paths. Only this file knows how flax nests them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from errors import UserError
from experiments.run import optim
from models import registry
from models.layers import BatchNorm

Variables = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of training.

    `params` are trained. `rest` are frozen parameters and batch statistics. `ema` averages both, or is empty.
    """

    step: jax.Array
    params: Variables
    rest: Variables
    opt_state: optax.OptState
    ema: Variables


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The static half of a model. Together with its variables it becomes the module again.

    A model may name submodules that exist only for training in `training_only`, such as a GAN's discriminator. They have no
    moving average, and evaluation and prediction do not use them.
    """

    graphdef: nnx.GraphDef[registry.Model]
    lasting_graphdef: nnx.GraphDef[registry.Model]  # without `training_only`
    paths: Mapping[str, tuple]  # name -> nnx path
    training_only: tuple[str, ...]

    def lasting(self, variables: Mapping) -> dict:
        """Return the `variables` that do not exist only for training."""
        return {name: value for name, value in variables.items() if name.split("/")[0] not in self.training_only}

    def merge(self, variables: Variables) -> registry.Model:
        """Return a new module with `variables`, either all or the lasting ones. Call it inside the traced step."""
        graphdef = self.graphdef if variables.keys() == self.paths.keys() else self.lasting_graphdef
        nested: dict = {}
        for name, value in variables.items():
            *parents, last = self.paths[name]
            node = nested
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = value
        return nnx.merge(graphdef, nested, copy=True)


def variables_of(module: nnx.Module) -> Variables:
    """Return every array of a module by its path, with the batch statistics of the last call."""
    return {_name(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(module))}


def describe(config: ConfigDict, num_classes: int) -> tuple[Architecture, dict[str, jax.ShapeDtypeStruct], list[str]]:
    """Return a config's architecture, every variable's shape, and the names of the trained parameters.

    No values are computed. Batch statistics below a path of `optim.freeze` stay fixed in training too.
    """
    module = blueprint(config, num_classes)
    state = nnx.to_flat_state(nnx.state(module))
    params = [_name(path) for path, variable in state if isinstance(variable, nnx.Param)]
    frozen = optim.match("optim.freeze", config.optim.freeze, params)
    if len(frozen) == len(params):
        raise UserError("config.optim.freeze leaves no parameter to train; remove a pattern")
    shapes = {_name(path): jax.ShapeDtypeStruct(own.shape, own.dtype) for path, own in state}
    if frozen:
        for path, child in nnx.iter_modules(module):
            if isinstance(child, BatchNorm):
                child.frozen = any(name.startswith(_name(path) + "/") for name in frozen)
    graphdef = lasting = nnx.graphdef(module)
    if training_only := module.training_only:
        for name in training_only:
            setattr(module, name, nnx.data(None))
        lasting = nnx.graphdef(module)
    architecture = Architecture(graphdef, lasting, {_name(path): path for path, _ in state}, training_only)
    return architecture, shapes, [name for name in params if name not in frozen]


def blueprint(config: ConfigDict, num_classes: int) -> registry.Model:
    """Return the model of a config with shapes in place of arrays, for example to compute its geometry."""
    return nnx.eval_shape(lambda: _make(config, num_classes, seed=0))


def initialise(config: ConfigDict, num_classes: int, seed: int) -> Variables:
    """Return the initial variables of a config's model."""
    return variables_of(_make(config, num_classes, seed))


def _make(config: ConfigDict, num_classes: int, seed: int) -> registry.Model:
    return registry.build(**config.model.to_dict(), rngs=nnx.Rngs(seed), num_classes=num_classes)


def create(
    variables: Variables, trained: list[str], optimizer: optax.GradientTransformation, averaged: Variables
) -> TrainState:
    """Return the state before step 1. `averaged` are the variables that get a moving average, {} for none."""
    params = {name: variables[name] for name in trained}
    rest = {name: value for name, value in variables.items() if name not in params}
    # A copy: donated buffers must not appear twice in one state.
    average = {name: jnp.array(value, copy=True) for name, value in averaged.items()}
    return TrainState(jnp.zeros((), jnp.int32), params, rest, optimizer.init(params), average)


def update_ema(ema: Variables, params: Variables, rest: Variables, decay: float, step: jax.Array) -> Variables:
    """Return the moving average after `step` + 1 steps.

    The decay used rises to `decay`, so that early averages forget the initial values.
    """
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    current = params | rest
    return {name: kept * value + (1.0 - kept) * current[name] for name, value in ema.items()}


def replace(state: TrainState, values: Mapping[str, np.ndarray]) -> TrainState:
    """Return the state with new values of some variables and of their moving average, in the same device layout."""

    def put(variables: Variables) -> Variables:
        own = {
            name: jax.device_put(value, variables[name].sharding) for name, value in values.items() if name in variables
        }
        return variables | own

    return dataclasses.replace(state, params=put(state.params), rest=put(state.rest), ema=put(state.ema))


def evaluation_weights(state: TrainState, architecture: Architecture) -> Variables:
    """Return the variables that evaluation uses, which are the moving average if the run has one."""
    return state.ema or architecture.lasting(state.params | state.rest)


def select(arrays: Mapping[str, Any], weights: str) -> Variables:
    """Return the variables in a checkpoint's arrays.

    `weights` is `ema`, `raw`, or `auto` for the moving average if there is one.
    """
    ema, params, rest = (
        {name.split(".", 1)[1]: value for name, value in arrays.items() if name.startswith(part)}
        for part in ("ema.", "params.", "rest.")
    )
    if weights == "ema" and not ema:
        raise UserError("this run has no moving average (config.optim.ema=0); use --weights=raw")
    return ema if ema and weights != "raw" else params | rest


def check_same_shapes(variables: Variables, like: Mapping[str, jax.ShapeDtypeStruct], where: str) -> None:
    """Raise UserError that names the first variable whose shape differs from the model's."""
    for name in sorted(variables.keys() | like.keys()):
        shapes = [tuple(group[name].shape) if name in group else None for group in (variables, like)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{where} does not fit this config's model: {name} is {shapes[0]} there and {shapes[1]} in the model; "
                "use the model and the classes that it was made with"
            )


def _name(path: tuple) -> str:
    return "/".join(map(str, path))
