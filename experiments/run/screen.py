"""The first screen of a run, a summary of its config, its data, its model and its devices.

The memory and the operations of the compiled steps follow when they are known.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments.run.costs import memory
from experiments.run.lane import Lane, Run
from input_pipeline.batch import list_canvases
from wording import count, name_some

Rows = Iterator[tuple[str, str]]
# Values of config.data.augment without an effect. For the other fields it is 0.
NEUTRAL = {"scale": (1.0, 1.0), "aspect": 1.0}
RULES = ("min_visible", "crop")  # fields without an effect of their own
NAMED = 8  # classes
# Parts of the memory of a step. Results that reuse arguments count as arguments.
KEPT = ("arguments", "results", "between", "code")
WANDB = {"auto": "W&B online with an account, offline without one", "disabled": "no W&B"}


def describe_run(runs: Sequence[Run], workdir: os.PathLike, members: str, report: Mapping[str, Any] | None) -> Rows:
    """Yield the names and texts of the rows about restored runs that differ only in their seeds.

    `members` says how they share devices, "" for a single run. `report` is the check of a detector's objects, None without one.
    """
    first = runs[0]
    config, source, held_out = first.config, first.source, first.inputs.eval_source
    data, classes = config.data, source.class_names
    yield (
        "data",
        f"{data.name}: {count(len(source), 'image')} to train on ({data.train_split}), {len(held_out)} to evaluate on "
        f"({data.eval_split}); {count(len(classes), 'class')}: {name_some(classes, NAMED)}",
    )
    if report is not None:
        yield "objects", _describe_objects(report, first.workdir)
    yield "model", _describe_model(first)
    yield "training", _describe_training(config, len(source), bool(first.task.solves))
    if config.train.steps:
        yield "augmentation", _describe_augmentation(data) or "none"
    yield "evaluation", _describe_evaluation(first)
    yield "devices", "; ".join(filter(None, [_describe_devices(first.mesh.size), members]))
    yield "results", f"{workdir}: {_describe_start(runs)}; {_describe_wandb(config.wandb)}"


def describe_compiled(lane: Lane, seconds: float) -> str:
    """Describe in one line the memory of the compiled steps of a lane on each device and their operations, as XLA counts them."""
    run = lane.runs[0]
    training = [format_bytes(size) + " of memory" for size in find_memory([lane.compiled])]
    if lane.flops:  # the parts of an accumulated batch are a loop, whose body counts once
        images = run.config.train.batch_size / (lane.mesh.size * run.config.optim.accumulate)
        training.append(f"{lane.flops / images / 1e9:.3g} GFLOP per image")
    words = ["training takes " + " and ".join(training)] if training else []
    words += [f"evaluation {format_bytes(size)}" for size in find_memory(run.evaluator.inference.programs)[-1:]]
    if capacity := find_capacity():
        words.append(f"a device has {format_bytes(capacity)}")
    return ": ".join(filter(None, [f"compiled in {seconds:.0f} s", ", ".join(words)]))


def find_memory(programs: Iterable[jax.stages.Compiled | None]) -> list[float]:
    """Return the bytes that a call of each program needs on one device, sorted. A program without an analysis is left out."""
    known = [program for program in programs if program is not None and program.memory_analysis() is not None]
    return sorted(1e6 * sum(memory(program)[part] for part in KEPT) for program in known)


def find_capacity() -> float | None:
    """Return the bytes of memory of a device. None where the device does not report it, such as a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def format_bytes(size: float) -> str:
    """Format a number of bytes as 85 MB, 1.2 GB or 17.6 TB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e6:.{0 if size >= 1e7 else 1}f} MB"


def _describe_objects(report: Mapping[str, Any], workdir: os.PathLike) -> str:
    per_image, share = report["objects_per_image"], report["matchable"]
    matched = "" if share is None else f"; {100 * share:.1f} % of them can be matched by this model"
    return (
        f"{report['objects']:,} to train on, {per_image['mean']:.1f} per image and {per_image['most']} at most{matched}; "
        f"by class: {workdir}/datacheck.json"
    )


def _describe_model(run: Run) -> str:
    names, part = [run.config.model.name], run.config.model
    while inner := [part[name] for name in ("backbone", "bottom_up") if name in part]:
        part = inner[0]
        names.append(part.name)
    trained, rest = (sum(value.size for value in values.values()) for values in (run.state.params, run.state.rest))
    others = f", {rest:,} frozen values and statistics" if rest else ""
    return f"{' on '.join(names)}, task {run.config.task.name}: {trained:,} trained parameters{others}"


def _describe_training(config: ConfigDict, images: int, is_solved: bool) -> str:
    train, optim = config.train, config.optim
    if is_solved:
        return "no steps: the weights are solved for, on stored features"
    if not train.steps:
        return "no steps: what the run starts with is scored and saved"
    epochs = train.steps * train.batch_size / images
    digits = 0 if epochs >= 10 else 1 if epochs >= 0.1 else 2
    parts = f" in {optim.accumulate} parts" if optim.accumulate > 1 else ""
    return (
        f"{train.steps:,} steps of {train.batch_size} images of {_write_size(config.data.image_size)}{parts} "
        f"({epochs:,.{digits}f} epochs); {optim.name}, lr {optim.lr:g}, {optim.schedule}"
    )


def _describe_augmentation(data: ConfigDict) -> str:
    words = []
    for name, value in data.augment.items():
        if name in RULES or value == NEUTRAL.get(name):
            continue
        shown = " to ".join(map("{:g}".format, value)) if name == "scale" else value
        shown = shown[0] if isinstance(shown, tuple) else shown  # its strength; the others say how
        if shown:
            words.append(name.replace("_", " ") + ("" if shown is True else f" {shown}"))
    if data.augment.crop and (data.fit == "crop" or tuple(data.augment.scale) != NEUTRAL["scale"]):
        words.append("random crops")
    return ", ".join(words)


def _describe_evaluation(run: Run) -> str:
    config, best = run.config, run.best
    sizes = " and ".join(map(_write_size, list_canvases(config.data)))
    words = [f"every {config.train.eval_every} steps", f"{config.eval.batch_size} images of {sizes} at a time"]
    if tuple(config.eval.scales) != (1.0,):
        words.append(f"at scales {', '.join(map('{:g}'.format, config.eval.scales))}")
    if config.eval.flip:
        words.append("mirrored too")
    return f"{', '.join(words)}; the {'lowest' if best.smaller_is_better else 'highest'} {best.name} is the best"


def _describe_devices(of_run: int) -> str:
    device, total = jax.devices()[0], jax.device_count()
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{total} x {device.device_kind}{processes}" + (f", {of_run} for a run" if of_run < total else "")


def _describe_start(runs: Sequence[Run]) -> str:
    first = runs[0]
    names = f"{first.workdir.name} to {runs[-1].workdir.name}, " if len(runs) > 1 else ""
    if all(run.fresh for run in runs):
        return f"{names}new"
    steps = ", ".join(map(str, sorted({run.first for run in runs})))
    return f"{names}resumed at step {steps} of {first.config.train.steps}"


def _describe_wandb(settings: ConfigDict) -> str:
    mode = os.environ.get("WANDB_MODE", "auto") if settings.mode == "auto" else settings.mode
    return WANDB.get(mode, f"W&B {mode}")


def _write_size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
