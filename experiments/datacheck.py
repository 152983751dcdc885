"""`--mode=datacheck`, which reports the contents of a training split and the fields to set for it.

Labels are counted in this mode only. Objects are checked before the first step of every run too: boxes that no anchor or
cell can match are the usual cause of an mAP of 0.
"""

import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from errors import print_lines, warn
from experiments.command_line import Command
from experiments.example_sheets import choose_folder, draw_source, name_files
from experiments.label_counts import count_labels, describe, list_flags, median_frequency_weights
from experiments.object_counts import check_objects, list_box_flags, print_report, warn_of_objects
from experiments.results.registry import make_results
from experiments.run.inputs import say
from experiments.tasks.base import Task
from experiments.tasks.dense import Detection
from experiments.tasks.registry import find_task, make_task
from files import write_atomically
from input_pipeline.sources import Source, open_source
from input_pipeline.truths import make_truth


def datacheck(command: Command) -> None:
    """Print a report on `config.data.train_split`, and flags to paste.

    The flags are class weights, or boxes that fit the objects. Draw some examples as they are read and as they are
    augmented. Raise UserError for unusable data.
    """
    config = command.experiment()
    data = config.data
    needs = find_task(config.task.name).needs
    truth = make_truth(needs, data)
    source = open_source(data, data.train_split, command.data_dir, truth.source_keys)
    say(data.train_split, source)
    results = make_results(needs, config.eval, source.class_names)
    if "boxes" in needs:
        task = make_task(config, source.class_names)
        assert isinstance(task, Detection)  # it needs boxes
        report = check_objects(config, task, source, always_fit=True)
        print_report(report)
        flags = list_box_flags(report)
    else:
        flags = _check_labels(config, source)
    folder = choose_folder(command, "datacheck")
    print_lines(name_files(draw_source(folder, results, source, truth, data, config.seed.data)))
    for line in flags:
        print_lines(line)


def _check_labels(config: ConfigDict, source: Source) -> list[str]:
    """Print how often each class occurs. Return class weights as flags."""
    data = config.data
    counts = count_labels(source, data.num_threads)
    print_lines(*describe(f"{data.name} {data.train_split}", source.class_names, counts))
    absent = [name for name, pixels in zip(source.class_names, counts.pixels, strict=True) if not pixels]
    if absent:
        warn(f"{data.train_split}: no pixel is {', '.join(absent)}; a class without an example gets the weight 0")
    return list_flags(median_frequency_weights(counts))


def before_training(config: ConfigDict, task: Task, source: Source, workdir: pathlib.Path) -> dict[str, Any] | None:
    """Check the objects of a detector once per run, and warn of what will reduce the precision.

    Returns the report, which WORKDIR/datacheck.json keeps, or None if there was nothing to check.
    """
    place = workdir / "datacheck.json"
    if not isinstance(task, Detection) or place.exists():
        return None
    report = check_objects(config, task, source)
    warn_of_objects(report)
    write_atomically(place, json.dumps(report, indent=2).encode() + b"\n")
    return report
