"""`--mode=evaluate`, which scores a checkpoint of a run or published weights on any split."""

import json
import time

import jax
import numpy as np

from errors import print_lines
from experiments.command_line import Command
from experiments.results.registry import make_results
from experiments.run import sharding
from experiments.run.config_file import name_changes
from experiments.run.directory import lead, writes
from experiments.run.evaluator import Evaluator, write_result
from experiments.run.model import load_model
from experiments.run.tables import format_table
from experiments.tasks.registry import find_task, make_task
from files import write_atomically
from input_pipeline.relabelling import relabel
from input_pipeline.sources import open_source
from wording import count


def evaluate(command: Command) -> None:
    """Score a checkpoint of the run in --workdir on config.data.eval_split, print the table and write the records.

    The config may differ from that of the run in everything but the model. The JSON of the result names the fields that differ
    under `config`, and results of different configs have different file names. Where --workdir holds no run, the weights come
    from the run config.init_from or the file config.pretrained.
    """
    workdir, config = command.directory(), command.run_config()
    model = load_model(config, workdir, command.checkpoint, command.weights, command.data_dir)
    data = config.data.copy_and_resolve_references()
    data.white_level = model.white_level
    source = open_source(data, data.eval_split, command.data_dir, find_task(config.task.name).needs)
    source = relabel(source, model.class_names, data.eval_split)
    mesh = sharding.make_mesh(config.mesh)
    task = make_task(config, source.class_names)
    results = make_results(task.needs, config.eval, source.class_names)
    variables = jax.device_put(model.variables, sharding.tree_shardings(model.variables, mesh))
    began = time.perf_counter()
    result = Evaluator(config, task, results, model.architecture, source, mesh)(variables)
    seconds = time.perf_counter() - began
    # The file name contains the split.
    others = {field: value for field, value in model.changed.items() if field != "data.eval_split"}
    name = f"{config.data.eval_split}-{model.name}{name_changes(others)}".replace("/", "_")

    def write() -> dict[str, str]:
        places = write_result(workdir, name, result, records=name)
        summary = model.facts | {"images": result.images, "config": model.changed}
        summary["scores"] = {key: None if np.isnan(value) else value for key, value in result.scores.items()}
        write_atomically(workdir / "records" / f"{name}.json", json.dumps(summary, indent=2).encode() + b"\n")
        return places

    places = lead(write)
    if writes():
        for line in source.remarks:
            print_lines(f"{data.eval_split}: {line}")
        print(format_table(result.scores))
        print(
            f"\n{count(result.images, 'image')} of {config.data.eval_split}, {model.words}, {seconds:.1f} s; "
            f"rows per image: {workdir / 'records' / name}.jsonl"
        )
        for kind, place in places.items():
            print_lines(f"{kind}: {workdir / place}")
