"""`--mode=evaluate`: scores a checkpoint of a run on any split."""

import json
import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from errors import UserError
from experiments.results.registry import make_results
from experiments.run import configuration, sharding
from experiments.run.evaluator import Evaluator, table, write_result
from experiments.run.pretrained import load_run
from experiments.tasks.registry import make_task
from files import write_atomically
from input_pipeline.sources import open_source


def evaluate(config: ConfigDict, workdir: pathlib.Path, data_dir: str | None, checkpoint: str, weights: str) -> dict:
    """`--mode=evaluate`: scores a checkpoint of a run on config.data.eval_split, prints the table, writes the records.

    The config may differ from the run's in everything but the model.
    """
    configuration.check(config)
    architecture, variables, notes = load_run(config, workdir, checkpoint, weights)
    source = open_source(config.data, config.data.eval_split, data_dir)
    if list(source.class_names) != notes["class_names"]:
        raise UserError(
            f"{config.data.eval_split} has the classes {list(source.class_names)}, the run was trained on "
            f"{notes['class_names']}; evaluate it on data with the same classes in the same order"
        )
    mesh, step = sharding.make_mesh(config.mesh), notes["step"]
    task = make_task(config, source.class_names)
    results = make_results(task.needs, config.eval, source.class_names)
    variables = jax.device_put(variables, sharding.tree_shardings(variables, mesh))
    began = time.perf_counter()
    result = Evaluator(config, task, results, architecture, source, mesh)(variables)
    seconds = time.perf_counter() - began
    name = f"{config.data.eval_split}-{checkpoint}-{weights}-{step}".replace("/", "_")
    if jax.process_index() == 0:
        places = write_result(workdir, name, result, records=name)
        summary = {"step": step, "images": result.images, "checkpoint": checkpoint, "weights": weights}
        summary["scores"] = {key: None if np.isnan(value) else value for key, value in result.scores.items()}
        write_atomically(workdir / "records" / f"{name}.json", json.dumps(summary, indent=2).encode() + b"\n")
        print(table(result.scores))
        print(
            f"\n{result.images} images of {config.data.eval_split}, {checkpoint} checkpoint (step {step}), "
            f"{weights} weights, {seconds:.1f} s; rows per image: {workdir / 'records' / name}.jsonl"
        )
        for kind, place in places.items():
            print(f"{kind}: {workdir / place}")
    return result.scores
