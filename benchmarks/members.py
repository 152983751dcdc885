"""Timings of the steps of members that share one device, in turn (config.members) and vmapped (config.vmap).

    python -m benchmarks.members --config=configs/unet_shapes.py --batch_size=4 --members=4

prints one JSON object. in_turn_ms and vmapped_ms are medians for one step of all members. speedup is the median of the ratio
in_turn / vmapped of each step; above 1 vmapping is faster. compile_seconds and memory_mb (XLA's count) are those of both.
differences are the largest relative differences of a vmapped member's loss from that of a separate run, at the first and at the
last step. Fields of the config are flags.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import json
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks.steps import make_batch
from experiments.run import sharding
from experiments.run.costs import memory
from experiments.run.lane import Lane, VmappedLane
from experiments.run.step import make_train_step
from experiments.run.trainer import initialise_run
from experiments.tasks.registry import make_task

CONFIG = config_flags.DEFINE_config_file("config", "configs/unet_shapes.py", "The experiment.")
MEMBERS = flags.DEFINE_integer("members", 4, "Runs that share the device.", lower_bound=2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Batch size of each member.")
STEPS = flags.DEFINE_integer("steps", 12, "Timed steps, of which the median counts.", lower_bound=3)
CLASSES = 3  # of the random ground truth


class Run:
    """A run with the attributes that a lane needs to take its steps."""

    def __init__(self, config, mesh, task, class_names, seed):
        own = config.copy_and_resolve_references()
        own.seed.init = seed
        self.first, self.mesh, self.key, self.logs = 0, mesh, jax.random.key(seed), {}
        architecture, self.state, optimizer = initialise_run(own, mesh, class_names)
        self.train_step = make_train_step(own, task, architecture, optimizer)


def main(_) -> None:
    config, steps = CONFIG.value, STEPS.value
    mesh = sharding.make_mesh((1, -1, 1))
    class_names = tuple(map(str, range(CLASSES)))
    task = make_task(config, class_names)
    rows = make_batch(task.needs, BATCH_SIZE.value, config.data, CLASSES)
    lanes, compile_seconds = {}, {}
    for name, make in (("in_turn", Lane), ("vmapped", VmappedLane)):
        lanes[name] = make([Run(config, mesh, task, class_names, seed) for seed in range(MEMBERS.value)])
        began = time.perf_counter()
        lanes[name].compile_step(sharding.put_batch(rows, mesh))
        compile_seconds[name] = round(time.perf_counter() - began, 2)
    seconds = {name: [] for name in lanes}
    differences = []
    for step in range(1, steps + 3):
        losses = {}
        for name, lane in lanes.items():  # one after the other, so that a busy machine slows both
            began = time.perf_counter()
            lane.advance(step, rows)
            losses[name] = np.array([float(run.logs["loss"]) for run in lane.runs])
            seconds[name].append(time.perf_counter() - began)
        differences.append(float(np.max(np.abs(losses["vmapped"] / losses["in_turn"] - 1))))
    timed = {
        name: np.array(values[2:]) for name, values in seconds.items()
    }  # without the first two, which touch new memory
    state = lanes["in_turn"].runs[0].state
    result = {
        "model": config.model.name,
        "platform": jax.devices()[0].device_kind,
        "members": MEMBERS.value,
        "parameters": sum(value.size for value in state.params.values()),
        "batch_size": BATCH_SIZE.value,
        "image_size": tuple(config.data.image_size),
        **{f"{name}_ms": round(1e3 * float(np.median(values)), 1) for name, values in timed.items()},
        "speedup": round(float(np.median(timed["in_turn"] / timed["vmapped"])), 2),
        "compile_seconds": compile_seconds,
        "memory_mb": {name: memory(lane.compiled) for name, lane in lanes.items()},
        "differences": [float(f"{differences[0]:.1e}"), float(f"{differences[-1]:.1e}")],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
