"""Variables that exist already: a run's own checkpoint, another run's, or a file of weights."""

import pathlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from errors import UserError
from experiments.run.checkpoints import Checkpoints
from experiments.run.config_file import check_same
from experiments.run.state import Architecture, Variables, check_same_shapes, describe, select


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


def load_weights(path: str, architecture: Architecture, variables: Variables) -> tuple[Variables, list[str]]:
    """`variables` with those that a local .safetensors file has, and the names of those that it does not have.

    The model says which keys it knows. Raises UserError for a file that cannot be read, a key without a place, one that
    is missing, or another shape.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"config.pretrained={path} cannot be read as safetensors ({error}); give a local .safetensors file"
        ) from None
    arrays, unused = architecture.merge(variables).pretrained(weights.keys())
    wanted = {key for key, _ in arrays.values()}
    _check_keys(path, "has no key", wanted - weights.keys(), "it is of another network")
    _check_keys(path, "has the unknown key", weights.keys() - wanted - unused, "it is of another network, or width")
    loaded = {}
    for place, (key, convert) in arrays.items():
        name = "/".join(map(str, place))
        value = convert(weights[key]).astype(np.float32)
        if name not in variables or value.shape != variables[name].shape:
            shape = tuple(variables[name].shape) if name in variables else None
            raise UserError(
                f"config.pretrained={path}: {key} gives {name} the shape {value.shape}, the model has {shape}"
            )
        loaded[name] = value
    return variables | loaded, [name for name in variables if name not in loaded]


def report(source: str, variables: Variables, new: Iterable[str]) -> str:
    """One line: how many values of `variables` come from `source`, and in which parts of the model the `new` ones are."""
    new = set(new)
    taken = sum(value.size for name, value in variables.items() if name not in new)
    parts = Counter(name.split("/")[0] for name in variables if name in new)
    whole = Counter(name.split("/")[0] for name in variables)
    named = [part if count == whole[part] else f"{count} arrays of {part}" for part, count in parts.items()]
    total = sum(value.size for value in variables.values())
    return f"{source}: {taken:,} of {total:,} values; new here: {', '.join(named) or 'none'}"


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


def _check_keys(path: str, problem: str, keys: Iterable[str], cause: str) -> None:
    keys = sorted(keys)
    if keys:
        others = f" (and {len(keys) - 1} more)" if keys[1:] else ""
        raise UserError(f"config.pretrained={path} {problem} {keys[0]!r}{others}: {cause}")
