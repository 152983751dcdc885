"""Variables that exist already: a run's own checkpoint, another run's, or a file of weights."""

import pathlib
from collections.abc import Callable, Iterable

import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from errors import UserError
from experiments.run.checkpoints import Checkpoints
from experiments.run.config_file import check_same
from experiments.run.state import Architecture, Variables, check_same_shapes, describe, select

Converter = Callable[[np.ndarray], np.ndarray]


def load_run(
    config: ConfigDict, workdir: pathlib.Path, checkpoint: str, weights: str
) -> tuple[Architecture, Variables, dict]:
    """A run's model with the variables of its `best` or `last` checkpoint (`ema`, `raw` or `auto`), and the notes.

    `config` may differ from the run's in everything but the model. Raises UserError where they do not fit.
    """
    check_same(workdir, config, sections=("model",))
    arrays, notes = Checkpoints(workdir, read_only=True).read(checkpoint)
    architecture, shapes, _ = describe(config, len(notes["class_names"]))
    variables = architecture.lasting(select(arrays, weights))
    check_same_shapes(variables, architecture.lasting(shapes), f"{workdir} ({checkpoint} checkpoint)")
    return architecture, variables, notes


def load_backbone(path: str, architecture: Architecture, variables: Variables) -> Variables:
    """`variables` with the backbone's from a local .safetensors file (names of torchvision, timm or Keras).

    Raises UserError for a file that cannot be read, an unused key, one that is missing, or another shape.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"config.pretrained={path} cannot be read as safetensors ({error}); give a local .safetensors file"
        ) from None
    prefix, backbone = _backbone(architecture.merge(variables))
    names, unused = backbone.pretrained(weights.keys())
    wanted = {key for key, _ in names.values()}
    _check_keys(path, "has no key", wanted - weights.keys(), "it is of another network")
    _check_keys(
        path, "has the unknown key", weights.keys() - wanted - set(unused), "it is of another network, or width"
    )
    loaded = {}
    for place, (key, convert) in names.items():
        name = "/".join(map(str, (*prefix, *place)))
        value = convert(weights[key]).astype(np.float32)
        if name not in variables or value.shape != variables[name].shape:
            shape = tuple(variables[name].shape) if name in variables else None
            raise UserError(
                f"config.pretrained={path}: {key} gives {name} the shape {value.shape}, the model has {shape}"
            )
        loaded[name] = value
    missing = {n for n in variables if n.startswith("/".join(prefix) + "/")} - loaded.keys()
    _check_keys(
        path, "gives no value for", missing, "the file's names and the model differ: model.norm must be 'batch'"
    )
    return variables | loaded


def init_from(workdir: str, variables: Variables) -> tuple[Variables, list[str]]:
    """`variables` with those of another run's best checkpoint (its newest, where it kept no best).

    Those whose shape differs (a head for other classes) or that the other run does not have keep their own start; their
    names are returned. Raises UserError where nothing fits.
    """
    checkpoints = Checkpoints(pathlib.Path(workdir), read_only=True)
    if not checkpoints.steps("best") + checkpoints.steps("last"):
        raise UserError(f"config.init_from={workdir} holds no checkpoint; give the workdir of a run that has saved one")
    arrays, _ = checkpoints.read("best" if checkpoints.steps("best") else "last")
    other = select(arrays, "auto")
    fitting = {n: other[n] for n, value in variables.items() if n in other and other[n].shape == value.shape}
    if not fitting:
        raise UserError(
            f"config.init_from={workdir}: no parameter of that run fits this model; use a run of the same model"
        )
    return variables | fitting, sorted(variables.keys() - fitting.keys())


def _backbone(module: nnx.Module) -> tuple[tuple[str, ...], nnx.Module]:
    for path, child in nnx.iter_modules(module):
        if hasattr(child, "pretrained"):
            return tuple(map(str, path)), child
    raise UserError("config.pretrained: this model has no backbone with pretrained names; leave the field empty")


def _check_keys(path: str, problem: str, keys: Iterable[str], cause: str) -> None:
    keys = sorted(keys)
    if keys:
        others = f" (and {len(keys) - 1} more)" if keys[1:] else ""
        raise UserError(f"config.pretrained={path} {problem} {keys[0]!r}{others}: {cause}")
