"""`--mode=show`, which draws the exact batch of one training step as one picture. It makes no model."""

import pathlib

from ml_collections import ConfigDict

from errors import UserError, print_lines, warn
from experiments.command_line import Command
from experiments.example_sheets import caption, choose_folder, draw_batch
from experiments.pictures.png import write_new_png
from experiments.results.registry import make_results
from experiments.run import checkpoints
from experiments.run.checkpoints import Checkpoints
from experiments.run.config_file import changes
from experiments.run.inputs import Inputs
from experiments.tasks.registry import find_task
from input_pipeline.batch import Batch
from wording import count

# Sections and fields of the config that decide what is in a batch.
DECIDING = ("data.", "seed.data", "task.name", "train.batch_size")
# Fields of these sections that do not. The fingerprint compares the data itself, wherever it is.
UNSEEN = ("data.eval_split", "data.canvases", "data.num_threads", "data.prefetch", "data.folder.root")


def show(command: Command) -> None:
    """Draw the batch of step --step, of the run in --workdir or of --config. Print the images of its rows line by line.

    Raise UserError for a step outside the run, and for data other than the run's.
    """
    config, step = command.run_config(), command.step
    if not 1 <= step <= config.train.steps:
        raise UserError(f"--step={step}: config.train.steps={config.train.steps}; steps count from 1, name one of them")
    workdir = command.directory() if command.workdir else None
    white = checkpoints.read_white(workdir) if workdir is not None and checkpoints.exists(workdir) else 0
    inputs = Inputs(config, command.data_dir, white)
    if workdir is not None and (workdir / "config.json").exists():
        _check_run(workdir, config, inputs)
    source = inputs.source
    results = make_results(find_task(config.task.name).needs, config.eval, source.class_names)
    batch = read_batch(inputs, config, step)
    place = write_new_png(choose_folder(command, "show") / f"step_{step:07}.png", draw_batch(results, source, batch))
    rows = [caption(source, index) for index in batch["image_id"].tolist()]
    print(f"step {step}: {count(len(rows), 'image')} of {config.data.name} {config.data.train_split}")
    print_lines(*rows, f"picture: {place}")


def read_batch(inputs: Inputs, config: ConfigDict, step: int) -> Batch:
    """Return the global batch of a step, from the loader that training uses."""
    loader = inputs.load(config)
    try:
        loader.set_state(step - 1)
        return next(loader)
    finally:
        loader.close()


def _check_run(workdir: pathlib.Path, config: ConfigDict, inputs: Inputs) -> None:
    """Compare with the run in `workdir`. Raise UserError for other data. Warn of fields that make other batches."""
    notes = Checkpoints(workdir, read_only=True).read_notes() or {}
    data = inputs.fingerprints["train"]
    trained_on = notes.get("data", {}).get("train", data)
    changed = [name for name in changes(workdir, config) if name.startswith(DECIDING) and name not in UNSEEN]
    if changed:
        warn(f"{workdir} was trained with another {', '.join(changed)}: these are not the images that its steps saw")
    elif trained_on != data:
        raise UserError(
            f"the data is not what {workdir} was trained on (fingerprints {trained_on} then, {data} now); restore that data, "
            "or give --config=FILE and another --workdir"
        )
