"""The mode `export`, which writes a checkpoint as StableHLO, weights, a model card and an example.

The written files do not need the code of this project.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import cast

import jax
import numpy as np
from jax import export as exports

from errors import UserError, print_lines
from experiments.command_line import Command
from experiments.run.card import write_card, write_loader
from experiments.run.config_file import name_changes, resolve
from experiments.run.model import load_model
from experiments.run.program import Program, make_program
from experiments.run.state import Variables
from experiments.run.weights_file import pack_weights
from experiments.tasks.registry import make_task
from files import expand_user, write_folder
from models.weights import Published, name_by_torchvision

PLATFORMS = ("cpu", "cuda", "tpu")


def export(command: Command) -> None:
    """Write a checkpoint of the run in --workdir to WORKDIR/export/NAME, or to --output.

    --checkpoint and --weights choose what is exported, as in --mode=evaluate. Raise UserError for a config with several
    canvases, for a folder with another export, which stays unchanged, and in a job of several processes.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=export needs a single process; start it without the others")
    workdir, config = command.directory(), command.run_config()
    model = load_model(config, workdir, command.checkpoint, command.weights, command.data_dir)
    if command.output:
        folder = expand_user(command.output).absolute()
    else:
        folder = workdir / "export" / f"{model.name}{name_changes(model.changed)}"
    task = make_task(config, model.class_names)
    program = make_program(config, model.architecture, task)
    exported = export_program(program, model.variables)
    arrays = {name: np.asarray(value) for name, value in model.variables.items()}
    published = name_by_torchvision(cast(Published, model.architecture.merge(model.variables)), arrays)
    numbered = zip(model.class_names, model.category_ids, strict=True)
    files = {
        "model.stablehlo": bytes(exported.serialize()),
        "weights.safetensors": pack_weights(arrays),
        "config.json": resolve(config).encode(),
        "classes.json": json.dumps([{"name": name, "id": number} for name, number in numbered], indent=2).encode(),
        "load.py": write_loader(program).encode(),
    }
    if published:
        files["weights_torchvision.safetensors"] = pack_weights(published)
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    whole = sum(map(np.size, published.values())) == sum(map(np.size, arrays.values()))
    part = ("all" if whole else "the backbone") if published else None
    card = write_card(config, model, program, outputs, workdir, command.licence, part)
    new = write_folder(folder, files | {"README.md": card.encode()})
    already = "" if new else " (already written)"
    print_lines(f"{len(files) + 1} files in {folder}{already}; {model.words}")
    print_lines(f"python {folder / 'load.py'}")


def export_program(program: Program, variables: Variables) -> exports.Exported:
    """Trace a program for any number of images and all PLATFORMS, with its variables as constants."""
    (count,) = exports.symbolic_shape("b")
    traced = jax.jit(lambda **inputs: program.predict(variables, inputs))
    with _no_locations():
        return exports.export(traced, platforms=PLATFORMS)(**program.specify(count))


@contextlib.contextmanager
def _no_locations() -> Iterator[None]:
    """Leave the source locations of this machine out of traced programs, so that equal programs have equal bytes."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)
