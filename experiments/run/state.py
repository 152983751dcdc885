"""What a training step carries from one step to the next.

Variables are flat dictionaries {"encoder/stem/conv/kernel": array}: freezing, layer-wise rates, pretrained names and
checkpoints all use paths, and nothing but this file needs to know how flax nests them.
"""

import dataclasses
from collections.abc import Mapping

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
    """`params` are trained; `rest` are frozen parameters and batch statistics; `ema` averages both, or is empty."""

    step: jax.Array
    params: Variables
    rest: Variables
    opt_state: optax.OptState
    ema: Variables


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The static half of a model: with its variables it becomes the module again.

    A model may name submodules that exist only to train (`training_only`, a GAN's discriminator): they have no moving
    average, and evaluation and prediction do without them.
    """

    graphdef: nnx.GraphDef
    lasting_graphdef: nnx.GraphDef  # of the model without what exists only to train
    paths: Mapping[str, tuple]  # name -> nnx path
    training_only: tuple[str, ...]

    def lasting(self, variables: Mapping) -> dict:
        """`variables` without those that exist only to train."""
        return {name: value for name, value in variables.items() if name.split("/")[0] not in self.training_only}

    def merge(self, variables: Variables) -> nnx.Module:
        """A fresh module that holds `variables`, all or the lasting ones, to be called inside the traced step."""
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
    """Every array of a module by its path, batch statistics as the last call left them."""
    return {_name(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(module))}


def describe(config: ConfigDict, num_classes: int) -> tuple[Architecture, dict[str, jax.ShapeDtypeStruct], list[str]]:
    """The model of a config without its values: the static half, every variable's shape, and the names of the trained.

    A module with batch statistics below a path of `optim.freeze` keeps them, also in training.
    """
    module = blueprint(config, num_classes)
    state = nnx.to_flat_state(nnx.state(module))
    params = [_name(path) for path, variable in state if isinstance(variable, nnx.Param)]
    frozen = optim.match("optim.freeze", config.optim.freeze, params)
    if len(frozen) == len(params):
        raise UserError("config.optim.freeze leaves no parameter to train; take a pattern out")
    for path, child in nnx.iter_modules(module):
        if isinstance(child, BatchNorm):
            child.frozen = any(name.startswith(_name(path) + "/") for name in frozen)
    shapes, graphdef = variables_of(module), nnx.graphdef(module)
    training_only = module.training_only
    for name in training_only:
        setattr(module, name, nnx.data(None))
    architecture = Architecture(graphdef, nnx.graphdef(module), {_name(path): path for path, _ in state}, training_only)
    return architecture, shapes, [name for name in params if name not in frozen]


def blueprint(config: ConfigDict, num_classes: int) -> nnx.Module:
    """The model of a config with shapes in the place of arrays: its geometry depends on no values."""
    return nnx.eval_shape(lambda: _make(config, num_classes, seed=0))


def initialise(config: ConfigDict, num_classes: int, seed: int) -> Variables:
    """The variables that the model of a config starts with."""
    return variables_of(_make(config, num_classes, seed))


def _make(config: ConfigDict, num_classes: int, seed: int) -> nnx.Module:
    return registry.build(**config.model.to_dict(), rngs=nnx.Rngs(seed), num_classes=num_classes)


def create(
    variables: Variables, trained: list[str], optimizer: optax.GradientTransformation, averaged: Variables
) -> TrainState:
    """The state before step 1. `averaged` are those of `variables` that get a moving average, {} for none."""
    params = {name: variables[name] for name in trained}
    rest = {name: value for name, value in variables.items() if name not in params}
    # A copy: donated buffers must not appear twice in one state.
    average = {name: jnp.array(value, copy=True) for name, value in averaged.items()}
    return TrainState(jnp.zeros((), jnp.int32), params, rest, optimizer.init(params), average)


def update_ema(ema: Variables, params: Variables, rest: Variables, decay: float, step: jax.Array) -> Variables:
    """The moving average after one step more than `step`; its decay rises to `decay`, so that early averages forget the start."""
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    current = params | rest
    return {name: decay * value + (1.0 - decay) * current[name] for name, value in ema.items()}


def replace(state: TrainState, values: Mapping[str, np.ndarray]) -> TrainState:
    """The state with other values of some variables, on the devices as the earlier ones are; their moving average too."""

    def put(variables: Variables) -> Variables:
        own = {
            name: jax.device_put(value, variables[name].sharding) for name, value in values.items() if name in variables
        }
        return variables | own

    return dataclasses.replace(state, params=put(state.params), rest=put(state.rest), ema=put(state.ema))


def evaluation_weights(state: TrainState, architecture: Architecture) -> Variables:
    """The variables that evaluation uses: the moving average where the run keeps one."""
    return state.ema or architecture.lasting(state.params | state.rest)


def select(arrays: Mapping[str, jax.Array], weights: str) -> Variables:
    """The variables in a checkpoint's arrays: `ema`, `raw`, or `auto` for the average where there is one."""
    ema, params, rest = (
        {name.split(".", 1)[1]: value for name, value in arrays.items() if name.startswith(part)}
        for part in ("ema.", "params.", "rest.")
    )
    if weights == "ema" and not ema:
        raise UserError("this run kept no moving average (config.optim.ema=0); use --weights=raw")
    return ema if ema and weights != "raw" else params | rest


def check_same_shapes(variables: Variables, like: Mapping[str, jax.ShapeDtypeStruct], where: str) -> None:
    """Raises UserError naming the first variable that differs from the model's own."""
    for name in sorted(variables.keys() | like.keys()):
        shapes = [tuple(group[name].shape) if name in group else None for group in (variables, like)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{where}: {name} is {shapes[0]} there and {shapes[1]} in this config's model; "
                "use the model (and the classes) that it was made with"
            )


def _name(path: tuple) -> str:
    return "/".join(map(str, path))
