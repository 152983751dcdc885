"""A comparison of the runs of a sweep over methods by score, and by speed, parameters and memory measured here.

    python -m benchmarks.history runs/detection --tfds_data_dir=data

prints a table in Markdown. It writes the table to history.json and the score against the speed to history.png, both in the
sweep's folder. The steps of all methods are timed in turn, three times, on noise of the images' size, with the batch size of
each config; the median counts. Inference uses the weights of the run. If a method searches for proposals, the time of the search
in images of the split is part of its inference.
"""

from errors import begin_command

if __name__ == "__main__":
    begin_command()  # first of all: the imports take a while

import argparse
import json
import pathlib
import sys
import time

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from benchmarks.steps import Step
from errors import UserError
from experiments.pictures.plots import plot_points
from experiments.pictures.png import write_png
from experiments.run.config_file import read_config
from experiments.run.costs import memory
from experiments.run.metrics_file import read_rows
from experiments.run.model import load_model
from experiments.tasks.registry import find_task
from files import read_json, write_atomically
from input_pipeline.proposals import make_search
from input_pipeline.sources import open_source

METHODS = {  # the method and its year by name of a run
    "rcnn": ("R-CNN", 2014),
    "sppnet": ("SPP-net", 2014),
    "fast_rcnn": ("Fast R-CNN", 2015),
    "faster_rcnn": ("Faster R-CNN", 2015),
    "yolov1": ("YOLO", 2016),
    "ssd": ("SSD", 2016),
    "faster_rcnn_fpn": ("Faster R-CNN, FPN", 2017),
    "mask_rcnn": ("Mask R-CNN", 2017),
    "retinanet": ("RetinaNet", 2017),
    "fcos": ("FCOS", 2019),
    "fcn32s": ("FCN-32s", 2015),
    "fcn16s": ("FCN-16s", 2015),
    "fcn8s": ("FCN-8s", 2015),
    "unet": ("U-Net", 2015),
    "deeplabv3plus": ("DeepLabV3+", 2018),
}
SCORES = {
    "boxes": ("AP50", "AP"),
    "label": ("mIoU", "boundary_IoU"),
}  # by the first need of a task; the last score is drawn
ROUNDS = 3
SECONDS = 2.0  # the least time of a round, which has three steps or more
SEARCHED = 16  # images in which the search for proposals is timed


def read_runs(folder: pathlib.Path) -> list[dict]:
    """Return the runs of a sweep in the order of METHODS, with name, config, scores by name and seconds of training.

    An unfinished run of an earlier definition of the sweep is skipped if another one with its name has finished. Raise UserError
    if the folder has no sweep, or if a name has no finished run.
    """
    try:
        entries = read_json(folder / "sweep.json")["runs"]
    except (UserError, KeyError) as error:
        raise UserError(f"{folder} has no sweep ({error}); name the --workdir of experiments.sweep") from None
    done = {entry["run"] for entry in entries if entry["state"] == "done"}
    runs = []
    for entry in entries:
        if entry["state"] != "done" and entry["run"] in done:
            continue
        name, workdir = entry["run"], folder / entry["directory"]
        config = read_config(workdir)
        rows = read_rows(workdir / "metrics.jsonl")
        names = SCORES[find_task(config.task.name).needs[0]]
        if not rows or rows[-1]["step"] != config.train.steps or f"val/{names[0]}" not in rows[-1]:
            raise UserError(f"{workdir} has not finished; start the sweep again")
        scores = {name: rows[-1][f"val/{name}"] for name in names}
        runs.append({"name": name, "config": config, "scores": scores, "seconds": entry["seconds"], "workdir": workdir})
    order = list(METHODS)
    return sorted(runs, key=lambda run: order.index(run["name"]) if run["name"] in order else len(order))


def search_seconds(config: ConfigDict, data_dir: str | None) -> float:
    """Return the median seconds of the search for an image's proposals, in one thread, or 0 for a task without."""
    if "proposals" not in find_task(config.task.name).needs:
        return 0.0
    search, seconds = make_search(config.data), []
    source = open_source(config.data, config.data.eval_split, data_dir, ("boxes",))
    for index in range(min(SEARCHED, len(source))):
        image = source[index]["image"]
        began = time.perf_counter()
        search.find(search.shrink(image), image.shape[:2])
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def measure(runs: list[dict], data_dir: str | None) -> list[dict]:
    """Return the rows of the table, with each run's scores, images per second, parameters and memory."""
    timed = []
    for run in runs:
        config = run["config"]
        model = load_model(config, run["workdir"], "last", "auto", data_dir)
        config.update(pretrained="", init_from="")
        sizes = {False: config.train.batch_size, True: config.eval.batch_size}
        classes, weights = len(model.class_names), model.variables
        steps = {
            own: Step(config, batch_size=size, classes=classes, inference=own, variables=weights)
            for own, size in sizes.items()
        }
        for step in steps.values():
            step.run()
        timed.append((steps, sizes, {False: [], True: []}))
        print(f"{run['name']}: compiled", file=sys.stderr, flush=True)
    for _ in range(ROUNDS):
        for steps, _, seconds in timed:
            for own, step in steps.items():
                began = len(seconds[own])
                while len(seconds[own]) < began + 3 or sum(seconds[own][began:]) < SECONDS:
                    seconds[own].append(step.run())
    rows = []
    for run, (steps, sizes, seconds) in zip(runs, timed, strict=True):
        config = run["config"]
        training, inference = (float(np.median(seconds[own])) / sizes[own] for own in (False, True))
        search = search_seconds(config, data_dir)
        parts = memory(steps[False].compiled)
        title, year = METHODS.get(run["name"], (run["name"], None))
        rows.append(
            {
                "method": title,
                "year": year,
                **run["scores"],
                "training images/s": 1 / training,
                "inference images/s": 1 / (inference + search),
                "search seconds/image": search,
                "parameters": steps[False].parameters,
                "training memory MB": sum(parts[name] for name in ("arguments", "results", "between")),
                "trained images": config.train.steps * config.train.batch_size,
                "minutes": None if run["seconds"] is None else run["seconds"] / 60,
            }
        )
    return rows


def write_table(rows: list[dict]) -> str:
    """Return the rows as a table in Markdown."""
    names = [name for name in rows[0] if name != "search seconds/image"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_write(name, row[name]) for name in names)} |" for row in rows)])


def _write(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if name.split("_")[-1] in ("AP", "AP50", "mIoU", "IoU") else f"{value:,.1f}"
    return f"{value:,}" if name in ("parameters", "trained images") else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the runs of a sweep over methods.")
    parser.add_argument("folder", type=pathlib.Path, help="the --workdir of experiments.sweep")
    parser.add_argument("--tfds_data_dir", help="the folder of prepared datasets, $TFDS_DATA_DIR by default")
    flags = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # orbax warns for each checkpoint that is only read
    try:
        runs = read_runs(flags.folder)
        rows = measure(runs, flags.tfds_data_dir)
    except UserError as error:
        sys.exit(f"error: {error}")
    score = list(runs[0]["scores"])[-1]
    points = [(f"{row['method']} ({row['year']})", row["inference images/s"], row[score]) for row in rows]
    write_atomically(flags.folder / "history.json", json.dumps(rows, indent=2).encode() + b"\n")
    write_png(flags.folder / "history.png", plot_points(points, "images a second, inference", score))
    print(write_table(rows))


if __name__ == "__main__":
    main()
