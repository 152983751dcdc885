"""A trained model with its variables and classes, from a run or from published weights."""

import hashlib
import pathlib
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from errors import UserError
from experiments.run.checkpoints import Checkpoints
from experiments.run.classes import read_classes
from experiments.run.config_file import changes, flatten
from experiments.run.pretrained import fill, load_run
from experiments.run.state import Architecture, Variables, describe, initialise
from experiments.tasks.registry import find_task
from files import expand_user
from input_pipeline.decoding import WHITE
from wording import make_printable

DECIDING = {"data.name", "task.name"}  # fields on which the classes depend


class Loaded(NamedTuple):
    """The architecture, variables and classes of a model, and their origin."""

    architecture: Architecture
    variables: Variables
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # ids of the classes in the data's own files; for masks 0, 1, 2 ...
    facts: dict[str, Any]  # for a record
    changed: dict[str, Any]  # values, by name, of the config fields that `facts` do not determine
    name: str  # for file names
    words: str  # for a sentence
    white_level: int = 0  # of 16-bit images; 0 if unknown


def load_model(
    config: ConfigDict, workdir: pathlib.Path, checkpoint: str, weights: str, data_dir: str | None
) -> Loaded:
    """Load the model of the run in `workdir`, else of the run config.init_from, else of the file config.pretrained.

    `checkpoint` and `weights` choose the variables of a run. A run has stored its classes. The classes of a file are those
    of the config's dataset in `data_dir`. Raises UserError if the variables do not fit the config's model, or if the file
    lacks some of them.
    """
    run = workdir
    if not (workdir / "config.json").exists():
        if config.init_from:
            run = expand_user(config.init_from).absolute()
        elif config.pretrained:
            return _load_file(config, *read_classes(config, data_dir))
    architecture, variables, notes = load_run(config, run, checkpoint, weights)
    names, step = tuple(map(make_printable, notes["class_names"])), notes["step"]
    ids = _number(config, tuple(notes.get("category_ids", range(1, 1 + len(names)))))  # older runs store no ids
    facts = {"run": str(run), "step": step, "checkpoint": checkpoint, "weights": weights}
    labels = f"{checkpoint}-{weights}-{step}", f"{checkpoint} checkpoint (step {step}), {weights} weights"
    white = config.data.white_level or notes.get("white_level", WHITE)
    return Loaded(architecture, variables, names, ids, facts, changes(run, config), *labels, white)


def _load_file(config: ConfigDict, class_names: tuple[str, ...], category_ids: tuple[int, ...]) -> Loaded:
    path, count = config.pretrained, len(class_names)
    architecture, _, _ = describe(config, count)
    variables, new = fill(config, architecture, initialise(config, count, config.seed.init), class_names)
    parts = dict.fromkeys(name.split("/")[0] for name in architecture.lasting(dict.fromkeys(new)))
    if parts:
        raise UserError(
            f"config.pretrained={path} has no values for {', '.join(parts)} of the model, and --workdir contains no run; give a "
            "file with the whole model for the dataset's classes, or train first with --mode=train"
        )
    facts = {"step": 0, "pretrained": path, "sha256": hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()}
    lasting = architecture.lasting(variables)
    labels = f"pretrained-{facts['sha256'][:6]}", f"weights from {path}"
    ids = _number(config, category_ids)
    return Loaded(architecture, lasting, class_names, ids, facts, flatten(config), *labels, config.data.white_level)


def _number(config: ConfigDict, category_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return the id of each class in the data's files. Masks store class indices, annotations store category ids."""
    return tuple(range(len(category_ids))) if "label" in find_task(config.task.name).needs else category_ids


def find_classes(config: ConfigDict, workdir: pathlib.Path | None, data_dir: str | None) -> tuple[str, ...]:
    """Return the class names that the run in `workdir` has stored, or else those of the config's data.

    Raises UserError if neither exists.
    """
    if workdir is not None and (workdir / "config.json").exists():
        differing = changes(workdir, config)
        notes = None if DECIDING & differing.keys() else Checkpoints(workdir, read_only=True).read_notes()
        if notes is not None:
            return tuple(map(make_printable, notes["class_names"]))
    return read_classes(config, data_dir)[0]
