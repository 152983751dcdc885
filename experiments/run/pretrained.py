"""Load variables from a checkpoint of this or another run, or from a weight file."""

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
    """Return a run's architecture, its variables from a checkpoint, and the checkpoint's notes.

    `checkpoint` is `best` or `last`. `weights` is `ema`, `raw` or `auto`. `config` may differ from the run's, but not in
    config.model. Raises UserError if the variables do not fit the config's model.
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
    """Fill `variables` from config.pretrained, then from config.init_from, and return the names that neither has.

    Prints how many values come from each source. Warns about random values that config.optim.freeze would keep.
    `class_names` are the model's. Raises UserError if a source does not fit the model.
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
            f"config.optim.freeze keeps {len(frozen)} arrays of {parts} at their random initial values; set config.pretrained or "
            "config.init_from, or freeze less"
        )
    return variables, new


def load_weights(
    path: str, architecture: Architecture, variables: Variables, class_names: Sequence[str]
) -> tuple[Variables, list[str], str]:
    """Fill `variables` from a local .safetensors file, and return the names that it lacks, and a remark.

    The model maps the file's keys to its variables. If the file's classes are not `class_names`, the class layer keeps its
    initial values, and the remark says so. Raises UserError if the file cannot be read, has an unknown key, lacks a key or
    has another shape.
    """
    weights = read_weights(pathlib.Path(path), "config.pretrained")
    model = architecture.merge(variables)
    arrays, unused, classes = model.pretrained(weights.keys())
    if doubt := model.caution(weights.keys()):
        warn(f"config.pretrained={path}: {doubt}")
    wanted = {key for key, _ in arrays.values()}
    _check_keys(path, "has no key", wanted - weights.keys(), "use a file for this network")
    _check_keys(path, "has the unknown key", weights.keys() - wanted - unused, "use a file for this network and width")
    loaded, remark = {}, ""
    for place, (key, convert) in arrays.items():
        name = "/".join(map(str, place))
        value = convert(weights[key]).astype(np.float32)
        if place in classes:
            own = _choose_classes(value, classes[place], class_names)
            if own is None:
                held = value.shape[-1] // classes[place].groups - classes[place].background
                remark = f"; the file has {held} classes, the dataset has {len(class_names)}, so the class layer stays random"
                continue
            value = own
        if name not in variables or value.shape != variables[name].shape:
            shape = tuple(variables[name].shape) if name in variables else None
            raise UserError(
                f"config.pretrained={path}: {key} has the shape {value.shape} for {name}, but the model has {shape}; use a file "
                "for this network, or change config.model"
            )
        loaded[name] = value
    return variables | loaded, [name for name in variables if name not in loaded], remark


def _choose_classes(array: np.ndarray, axis: Classes, class_names: Sequence[str]) -> np.ndarray | None:
    """Return `array` with the columns of the model's classes, or None if the file has other classes.

    `array` is [..., groups * classes of the file].
    """
    groups = array.reshape(*array.shape[:-1], axis.groups, -1)
    columns = match_columns(groups.shape[-1], class_names, axis.background)
    return None if columns is None else groups[..., columns].reshape(*array.shape[:-1], -1)


def report(source: str, variables: Variables, new: Iterable[str]) -> str:
    """Return one line with the number of values that come from `source`, and the parts of the model that are `new`."""
    new = set(new)
    taken = sum(value.size for name, value in variables.items() if name not in new)
    parts = Counter(name.split("/")[0] for name in variables if name in new)
    whole = Counter(name.split("/")[0] for name in variables)
    named = [part if count == whole[part] else f"{count} arrays of {part}" for part, count in parts.items()]
    total = sum(value.size for value in variables.values())
    return f"{source}: {taken:,} of {total:,} values; not loaded: {', '.join(named) or 'none'}"


def init_from(workdir: str, variables: Variables) -> tuple[Variables, list[str]]:
    """Fill `variables` from another run's best checkpoint, or from its newest if it has no best.

    Variables that have another shape there (a head for other classes), or that the other run lacks, keep their values. Their
    names are returned. Raises UserError if nothing fits.
    """
    checkpoints = Checkpoints(pathlib.Path(workdir), read_only=True)
    if not checkpoints.steps("best") + checkpoints.steps("last"):
        raise UserError(
            f"config.init_from={workdir} contains no checkpoint; give the workdir of a run that has saved one"
        )
    arrays, _ = checkpoints.read("best" if checkpoints.steps("best") else "last")
    other = select(arrays, "auto")
    fitting = {n: other[n] for n, value in variables.items() if n in other and other[n].shape == value.shape}
    if not fitting:
        raise UserError(
            f"config.init_from={workdir} has no parameter that fits this model; use a run of the same model"
        )
    return variables | fitting, sorted(variables.keys() - fitting.keys())


def _check_keys(path: str, problem: str, keys: Iterable[str], cause: str) -> None:
    keys = sorted(keys)
    if keys:
        others = f" (and {len(keys) - 1} more)" if keys[1:] else ""
        raise UserError(f"config.pretrained={path} {problem} {keys[0]!r}{others}; {cause}")
