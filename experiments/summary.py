"""`--mode=summary`, a table of the modules of a network and the cost of its steps.

It loads no image and makes no variable.
"""

import math

import jax
from flax import nnx
from ml_collections import ConfigDict

from experiments.command_line import Command
from experiments.run import sharding
from experiments.run import state as states
from experiments.run.costs import compile_evaluation, compile_training, memory, specify_batch
from experiments.run.evidence import flops
from experiments.run.model import find_classes
from experiments.run.modules import list_modules
from experiments.run.tables import align
from experiments.tasks.base import Arrays, Task
from experiments.tasks.registry import make_task
from input_pipeline.batch import list_canvases

TITLES = ("module", "type", "parameters", "MFLOP", "output")
PARTS = {  # of a compiled step's memory
    "arguments": "arguments",
    "results": "outputs",  # without those that are written over arguments
    "between": "temporaries",
    "code": "code",
}


def summary(command: Command) -> None:
    """Print the modules of the network of --config or of the run in --workdir, and the cost of its two steps.

    The names of the classes are read from the run's checkpoint, or without one from the data. Steps are compiled for the
    devices of this machine.
    """
    config = command.run_config()
    class_names = find_classes(config, command.directory() if command.workdir else None, command.data_dir)
    task = make_task(config, class_names)
    print("\n".join(describe_modules(config, task, len(class_names))), end="\n\n", flush=True)
    print("\n".join(describe_steps(config, task, len(class_names))))


def describe_modules(config: ConfigDict, task: Task, num_classes: int) -> list[str]:
    """Return a table of the modules and their totals, for one image on the first canvas."""
    architecture, shapes, trained = states.describe(config, num_classes)
    (canvas, *_), lasting = list_canvases(config.data), architecture.lasting(shapes)
    batch = specify_batch(config, task, canvas, 1, train=False)

    def predict(model: nnx.Module, batch: Arrays) -> Arrays:
        return task.predict(task.apply(model, batch, train=False, rngs=None), batch)

    rows = list_modules(architecture, lasting, batch, predict)
    cells = []
    for row in rows:
        name = "  " * len(row.path) + (row.path[-1] if row.path else config.model.name)
        output = row.outputs + (f" x{row.calls}" if row.calls > 1 else "")
        cells.append((name, row.kind, f"{row.parameters:,}", f"{row.flops / 1e6:,.1f}", output))
    sizes = {name: math.prod(one.shape) for name, one in shapes.items()}
    params = sum(sizes[name] for name in trained)
    only = sum(sizes.values()) - sum(math.prod(one.shape) for one in lasting.values())
    totals = f"{sum(sizes.values()):,} values, {4e-6 * sum(sizes.values()):.1f} MB; {params:,} of them are trained"
    return [
        *align([TITLES, *cells]),
        "",
        totals + (f"; {only:,} exist only to train" if only else ""),
        f"MFLOP: convolutions and matrix products of one image of {canvas[0]}x{canvas[1]}; parameters: with batch statistics",
    ]


def describe_steps(config: ConfigDict, task: Task, num_classes: int) -> list[str]:
    """Return a table of the compiled steps, with their operations and the megabytes of one device by kind."""
    mesh = sharding.make_mesh(config.mesh)
    steps = {}
    if task.solves:
        print(f"config.task.name={config.task.name!r} has no training steps")
    else:
        size = _words(config.train.batch_size, config.data.image_size)
        steps[f"training, {size}"] = compile_training(config, task, num_classes, mesh)
    for canvas in list_canvases(config.data):
        size = _words(config.eval.batch_size, canvas)
        steps[f"inference, {size}"] = compile_evaluation(config, task, num_classes, canvas, mesh)
    rows = []
    for name, compiled in steps.items():
        count, parts = flops(compiled), memory(compiled)
        own = (f"{parts[part]:,.1f}" for part in PARTS)
        rows.append((name, "-" if count is None else f"{count / 1e9:.2f}", *own))
    device = jax.devices()[0].device_kind
    return [
        *align([("step", "GFLOP", *(f"{title} MB" for title in PARTS.values())), *rows]),
        f"compiled for {jax.device_count()} x {device}; GFLOP: XLA's count, in which the body of a loop counts once",
    ]


def _words(count: int, size: tuple[int, int]) -> str:
    return f"{count} of {size[0]}x{size[1]}"
