"""Variables that exist already: a run's own checkpoint, another run's, or a file of weights."""

import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from ml_collections import ConfigDict

from errors import UserError, warn
from experiments.run.checkpoints import Checkpoints
from experiments.run.classes import match_columns
from experiments.run.config_file import check_same, compare_trained, read_config
from experiments.run.state import Architecture, Variables, check_same_shapes, describe, select
from experiments.run.weights_file import read_weights
from models.weights import Classes


def load_run(
    config: ConfigDict, workdir: pathlib.Path, checkpoint: str, weights: str
) -> tuple[Architecture, Variables, dict]:
    """A run's model with the variables of its `best` or `last` checkpoint (`ema`, `raw` or `auto`), and the notes.

    `config` may differ from the run's in everything but the model. Raises UserError where they do not fit.
    """
    check_same(workdir, config, sections=("model",))
    arrays, notes = Checkpoints(workdir, read_only=True).read(checkpoint)
    compare_trained(workdir, notes.get("config", {}), notes["step"], read_config(workdir))
    architecture, shapes, _ = describe(config, len(notes["class_names"]))
    variables = architecture.lasting(select(arrays, weights))
    check_same_shapes(variables, architecture.lasting(shapes), f"{workdir} ({checkpoint} checkpoint)")
    return architecture, variables, notes


def fill(
    config: ConfigDict, architecture: Architecture, variables: Variables, class_names: Sequence[str]
) -> tuple[Variables, list[str]]:
    """`variables` with those of config.pretrained, then of config.init_from, and the names of those that neither has.

    What comes from where is printed, and random values that config.optim.freeze would keep are warned of. `class_names` are
    the model's. Raises UserError where they do not fit the model.
    """
    new = list(variables)
    if config.pretrained:
        variables, new, remark = load_weights(config.pretrained, architecture, variables, class_names)
        print(report(f"weights from {config.pretrained}", variables, new) + remark)
    if config.init_from:
        variables, others = init_from(config.init_from, variables)
        print(report(f"weights from {config.init_from}", variables, others))
        new = [name for name in new if name in set(others)]
    frozen = [name for name in new if any(re.match(pattern, name) for pattern in config.optim.freeze)]
    if frozen:
        parts = ", ".join(sorted({name.split("/")[0] for name in frozen}))
        warn(
            f"config.optim.freeze keeps {len(frozen)} arrays of {parts} at the random values that they start with; set "
            "config.pretrained or config.init_from, or freeze less"
        )
    return variables, new


def load_weights(
    path: str, architecture: Architecture, variables: Variables, class_names: Sequence[str]
) -> tuple[Variables, list[str], str]:
    """`variables` with those that a local .safetensors file has, the names of those that it does not have, and a remark.

    The model says which keys it knows. Where the file's classes are not those of `class_names`, the class layer stays as it
    is and the remark says so. Raises UserError for a file that cannot be read, a key without a place, one that is missing,
    or another shape.
    """
    weights = read_weights(pathlib.Path(path), "config.pretrained")
    model = architecture.merge(variables)
    arrays, unused, classes = model.pretrained(weights.keys())
    if doubt := model.caution(weights.keys()):
        warn(f"config.pretrained={path}: {doubt}")
    wanted = {key for key, _ in arrays.values()}
    _check_keys(path, "has no key", wanted - weights.keys(), "it is of another network")
    _check_keys(path, "has the unknown key", weights.keys() - wanted - unused, "it is of another network, or width")
    loaded, remark = {}, ""
    for place, (key, convert) in arrays.items():
        name = "/".join(map(str, place))
        value = convert(weights[key]).astype(np.float32)
        if place in classes:
            own = _choose_classes(value, classes[place], class_names)
            if own is None:
                held = value.shape[-1] // classes[place].groups - classes[place].background
                remark = f"; its {held} classes are not the data's {len(class_names)}, whose layer starts anew"
                continue
            value = own
        if name not in variables or value.shape != variables[name].shape:
            shape = tuple(variables[name].shape) if name in variables else None
            raise UserError(
                f"config.pretrained={path}: {key} gives {name} the shape {value.shape}, the model has {shape}"
            )
        loaded[name] = value
    return variables | loaded, [name for name in variables if name not in loaded], remark


def _choose_classes(array: np.ndarray, axis: Classes, class_names: Sequence[str]) -> np.ndarray | None:
    """`array` [..., groups * classes of the file] with the model's classes, or None where the file has others."""
    groups = array.reshape(*array.shape[:-1], axis.groups, -1)
    columns = match_columns(groups.shape[-1], class_names, axis.background)
    return None if columns is None else groups[..., columns].reshape(*array.shape[:-1], -1)


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
