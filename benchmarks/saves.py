"""The cost of a model's checkpoint, as its size, the seconds until it is on disk, and the seconds for which training waits.

    python -m benchmarks.saves --folder=DIR

prints a row of a Markdown table for each headline model. It needs no data and takes no step: all arrays of the state, also those
of the optimiser, are filled with noise, because zeros would be compressed. The checkpoints are written to DIR and removed again,
so name a folder on the file system of the runs. --configs chooses other models, as NAME=CLASSES or NAME:VARIANT=CLASSES.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import pathlib
import shutil
import tempfile
import time

import jax
import numpy as np
from absl import app, flags, logging

from experiments.command_line import read_experiment
from experiments.run import sharding
from experiments.run.checkpoints import Checkpoints
from experiments.run.trainer import initialise_run

HEADLINES = ["unet_pets=3", "fcn8s_voc=21", "deeplabv3plus_camvid=11", "ssd300_voc=20", "retinanet_coco=80"]
HEADLINES += ["faster_rcnn_r50_fpn_coco=80", "mask_rcnn_r50_fpn_coco=80"]
CONFIGS = flags.DEFINE_list("configs", HEADLINES, "Names in configs/, each with its number of classes.")
FOLDER = flags.DEFINE_string("folder", None, "The folder of the checkpoints, by default that of temporary files.")
SAVES = flags.DEFINE_integer("saves", 3, "Checkpoints per model, of which the median counts.", lower_bound=1)


def main(_) -> None:
    logging.set_verbosity(logging.ERROR)
    print("| config | parameters | checkpoint | on disk after | training waits |\n|---|---|---|---|---|", flush=True)
    for setting in CONFIGS.value:
        name, _, classes = setting.partition("=")
        print(f"| `{name}` | {measure(name, int(classes))} |", flush=True)


def measure(name: str, classes: int) -> str:
    """Return the cells of a config's row. The state is freed before the next one is made."""
    file, colon, variant = name.partition(":")
    config = read_experiment(f"configs/{file}.py{colon}{variant}", [])
    _, state, _ = initialise_run(config, sharding.make_mesh((1, -1, 1)), tuple(map(str, range(classes))))
    parameters = sum(value.size for value in state.params.values())
    rng = np.random.default_rng(0)
    state = jax.block_until_ready(jax.tree.map(lambda leaf: fill(leaf, rng), state))
    workdir = pathlib.Path(tempfile.mkdtemp(prefix="saves-", dir=FOLDER.value))
    waits, writes = [], []
    try:
        checkpoints = Checkpoints(workdir, keep=1)
        for step in range(1, SAVES.value + 1):
            began = time.perf_counter()
            checkpoints.save(step, state, {})
            waits.append(time.perf_counter() - began)
            checkpoints.wait()
            writes.append(time.perf_counter() - began)
        checkpoints.close()
        size = sum(path.stat().st_size for path in workdir.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(workdir)
    cells = [
        f"{parameters / 1e6:.1f} M",
        f"{size / 1e6:,.0f} MB",
        *(f"{np.median(all_):.1f} s" for all_ in (writes, waits)),
    ]
    return " | ".join(cells)


def fill(leaf: jax.Array, rng: np.random.Generator) -> jax.Array:
    """Return noise in place of floating-point numbers. Integers stay."""
    if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
        return leaf
    return jax.device_put(rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype), leaf.sharding)


if __name__ == "__main__":
    app.run(main)
