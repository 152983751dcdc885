"""Timings of a config's training or inference step on random images, without the input pipeline.

    python -m benchmarks.train_step --config=configs/unet_pets.py --batch_size=16

prints one JSON object with parameters, images_per_second, step_ms (the median), compile_seconds, gflop_per_step and memory_mb
(both XLA's count). With --inference it times the step of evaluation and prediction, which is the network and the non-maximum
suppression of a detector. Fields of the config are flags, such as the image size and the type of activations:

    python -m benchmarks.train_step --config=configs/faster_rcnn_r50_fpn_coco.py --batch_size=2 --classes=80 \\
        --config.data.image_size='(800,1344)' --config.model.dtype=bfloat16
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import json
import sys

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks.steps import Step
from errors import UserError
from experiments.run.costs import memory
from experiments.run.evidence import flops

CONFIG = config_flags.DEFINE_config_file("config", "configs/unet_pets.py", "The experiment.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Batch size over all devices.")
CLASSES = flags.DEFINE_integer("classes", 3, "Classes of the random ground truth.")
INFERENCE = flags.DEFINE_bool("inference", False, "Time the inference step instead of the training step.")
STEPS = flags.DEFINE_integer("steps", 12, "Timed steps, 10 or more, of which the median counts.", lower_bound=10)


def main(_) -> None:
    config = CONFIG.value
    try:
        step = Step(config, batch_size=BATCH_SIZE.value, classes=CLASSES.value, inference=INFERENCE.value)
    except UserError as error:
        sys.exit(f"error: {error}")
    seconds = [step.run() for _ in range(STEPS.value + 2)]
    median = float(np.median(seconds[2:]))  # without the first two, which touch new memory
    count = flops(step.compiled)
    result = {
        "model": config.model.name,
        "step": "inference" if INFERENCE.value else "training",
        "platform": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "parameters": step.parameters,
        "batch_size": BATCH_SIZE.value,
        "image_size": tuple(config.data.image_size),
        "images_per_second": round(BATCH_SIZE.value / median, 2),
        "step_ms": round(1e3 * median, 1),
        "compile_seconds": round(step.compile_seconds, 2),
        "gflop_per_step": None if count is None else round(count / 1e9, 2),
        "memory_mb": memory(step.compiled),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
