"""The mode `preflight`, which checks whether a run fits a slice of TPUs and estimates its speed, without a TPU."""

import json

from ml_collections import ConfigDict

from errors import UserError
from experiments.command_line import Command
from experiments.preflight.chips import GIB, open_slice
from experiments.preflight.remedies import try_remedies
from experiments.preflight.steps import MEGA, Step, Steps, compile_steps
from experiments.run.classes import read_classes
from experiments.run.tables import align
from experiments.tasks.registry import make_task
from files import write_atomically

NAMED = 10  # gathers and scatters that are listed; the others are counted
KINDS = {"arguments": "arguments", "results": "outputs", "between": "temporaries", "code": "code", "reused": "reused"}


def preflight(command: Command) -> int:
    """Compile the steps of --config, or of the run in --workdir, for the slice that --topology names.

    Print a table and, in the last line, one JSON object, which is also written to WORKDIR/preflight.json if --workdir is given.
    Return 0, or 1 if the run does not fit.
    """
    config = command.run_config()
    if command.topology == "pod":
        from experiments.preflight.pod import check_pod  # it searches for devices; a slice needs none

        return check_pod(command)
    where = open_slice(command.topology)
    class_names = _name_classes(command, config)
    task = make_task(config, class_names)

    def compile_with(own: ConfigDict) -> Steps:
        return compile_steps(own, task, len(class_names), where, say)

    steps = compile_with(config)
    fits = all(map(steps.fits, steps.all))
    tried = [] if fits else try_remedies(steps, compile_with, say)
    print("\n".join(describe(steps, tried)))
    found = json.dumps(summarise(steps, tried))
    if command.workdir:
        write_atomically(command.directory() / "preflight.json", found.encode() + b"\n")
    print(found)
    return 0 if fits else 1


def say(line: str) -> None:
    print(line, flush=True)


def _name_classes(command: Command, config: ConfigDict) -> tuple[str, ...]:
    if command.classes:
        return tuple(f"class {number}" for number in range(command.classes))
    try:
        return read_classes(config, command.data_dir)[0]
    except UserError as error:
        raise UserError(f"{error}; without the data, set the number of its classes: --classes=NUMBER") from None


def describe(steps: Steps, tried: list[dict]) -> list[str]:
    """Return the lines of the tables."""
    where, config = steps.where, steps.config
    chips = len(where.devices)
    lines = [
        f"{where.name}: {chips} x {where.devices[0].device_kind}"
        + (f", {where.memory / GIB:.2f} GiB each for the program" if where.memory else ", memory unknown"),
        f"a step: {config.train.batch_size} images ({config.train.batch_size / chips:g} per chip); "
        f"trained parameters: {steps.parameters:.1f} MB",
        "",
        *_describe_memory(steps),
    ]
    lines += _describe_collectives(steps) + _describe_speed(steps)
    for step in steps.all:
        lines += _describe_accesses(step)
    lines += [f"{step.name}: {step.error}" for step in steps.all if step.error]
    if tried:
        lines += ["", "it does not fit; tried:"]
        lines += [f"  {one['change']}: " + ("fits" if one["fits"] else "does not fit") for one in tried]
    return lines


def _describe_memory(steps: Steps) -> list[str]:
    rows = [
        ("step", *(f"{title} MB" for title in KINDS.values()), "needed MB", "of HBM", "GFLOP", "GB moved", "compile s")
    ]
    for step in steps.all:
        needed = steps.needed(step)
        share = needed * MEGA / steps.where.memory if needed and steps.where.memory else None
        rows.append(
            (
                step.name,
                *(f"{step.memory[kind]:,.1f}" if step.memory else "-" for kind in KINDS),
                f"{needed:,.1f}" if needed else "-",
                f"{share:.1%}" if share else "-",
                f"{step.operations / 1e9:,.1f}",
                f"{step.memory_bytes / 1e9:,.2f}",
                f"{step.seconds:.0f}",
            )
        )
    words = "per chip; evaluation includes the training state; GFLOP and memory traffic are XLA's counts"
    loops = sum(step.loops for step in steps.all)
    return [
        *align(rows),
        words + (f", which count the bodies of {loops} loops of unknown length once" if loops else ""),
        "",
    ]


def _describe_collectives(steps: Steps) -> list[str]:
    rows = [
        (
            step.name,
            kind,
            str(sums["count"]),
            f"{sums['megabytes']:,.2f}",
            f"{sums['megabytes'] / steps.parameters:.2f}",
        )
        for step in steps.all
        for kind, sums in step.collected().items()
    ]
    return [*align([("step", "collective", "calls", "MB", "of the parameters"), *rows]), ""] if rows else []


def _describe_speed(steps: Steps) -> list[str]:
    found = steps.estimate()
    if found is None:
        return []
    parts = ", ".join(f"{name} {1e3 * found[f'{name}_s']:.2f}" for name in ("compute", "memory", "links", "latency"))
    return [
        f"a training step takes at least {1e3 * found['step_s']:.2f} ms, most of it for {found['bound']} ({parts}), so at "
        f"most {found['images_per_second']:,.0f} images/s",
        f"{len(steps.where.devices)} chips have a scaling efficiency of {found['efficiency']:.1%} "
        f"({found['efficiency_at_best']:.1%} if collectives and computation overlap), relative to one chip with its share of "
        "the batch",
        "",
    ]


def _describe_accesses(step: Step) -> list[str]:
    if not step.slow:
        return []
    rows = [
        (one.kind, one.place, f"{one.slices:,}", f"{one.elements:,}", f"{one.count:,}") for one in step.slow[:NAMED]
    ]
    others = len(step.slow) - len(rows)
    return [
        f"{step.name}: gathers and scatters of many small slices, which are slow on a TPU"
        + (f" (and {others} more)" if others else ""),
        *align([("kind", "place", "slices", "elements", "times"), *rows]),
        "",
    ]


def summarise(steps: Steps, tried: list[dict]) -> dict:
    """Return all results, fit for JSON."""
    where, config, training = steps.where, steps.config, steps.training
    reduced = training.collected().get("all-reduce", {}).get("megabytes", 0.0) if training else None
    return {
        "topology": where.name,
        "device": where.devices[0].device_kind,
        "chips": len(where.devices),
        "model": config.model.name,
        "batch_size": config.train.batch_size,
        "eval_batch_size": config.eval.batch_size,
        "image_size": list(config.data.image_size),
        "mesh": list(config.mesh),
        "accumulate": config.optim.accumulate,
        "remat": config.train.remat,
        "capacity_mb": where.memory and round(where.memory / MEGA, 1),
        "parameters_mb": round(steps.parameters, 3),
        "all_reduced_of_parameters": None if reduced is None else round(reduced / steps.parameters, 3),
        "fits": all(map(steps.fits, steps.all)),
        "training": training and training.described(),
        "evaluation": {
            step.name.split()[-1]: step.described() | {"taken_mb": steps.needed(step)} for step in steps.evaluation
        },
        "roofline": steps.estimate(),
        "tried": tried,
    }
