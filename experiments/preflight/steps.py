"""The steps of a config compiled for a slice, with their use of memory, and whether a run fits."""

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from errors import UserError
from experiments.preflight.chips import Slice
from experiments.preflight.hlo import KINDS, Access, Collective, Program
from experiments.preflight.roofline import estimate
from experiments.run import sharding
from experiments.run import state as states
from experiments.run.costs import compile_evaluation, compile_training, memory
from experiments.tasks.base import Task
from input_pipeline.batch import list_canvases

KEPT = ("arguments", "results", "between", "code")  # kinds of a step's memory; reused results are among the arguments
LANES = 128  # of a TPU's vectors: a slice with fewer elements wastes the rest
MANY = 1024  # as many such slices are slow: they move one after the other
MEGA = 1e6


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled step.

    `memory` is in megabytes per chip, by kind. If the chip has too little memory, it is None and `error` is XLA's message.
    `operations` and `memory_bytes` are XLA's counts on one chip, over all parts of an accumulated batch.
    """

    name: str
    seconds: float  # of compilation
    memory: dict[str, float] | None = None
    operations: float = 0.0
    memory_bytes: float = 0.0
    collectives: tuple[Collective, ...] = ()
    accesses: tuple[Access, ...] = ()
    loops: int = 0  # of unknown length
    error: str = ""
    wanted: float | None = None  # megabytes, from XLA's message if there are too few

    @property
    def needed(self) -> float | None:
        """The megabytes that one call needs."""
        return self.wanted if self.memory is None else sum(self.memory[kind] for kind in KEPT)

    @property
    def slow(self) -> list[Access]:
        """The gathers and scatters that are slow on a TPU, with many slices smaller than a vector."""
        return [one for one in self.accesses if one.elements < LANES and one.slices * one.count >= MANY]

    def collected(self) -> dict[str, dict[str, float]]:
        """Return the calls and the megabytes of each kind of collective."""
        sums = {kind: [one for one in self.collectives if one.kind == kind] for kind in KINDS}
        return {
            kind: {
                "count": sum(one.count for one in ones),
                "megabytes": round(sum(one.size * one.count for one in ones) / MEGA, 3),
            }
            for kind, ones in sums.items()
            if ones
        }

    def described(self) -> dict[str, Any]:
        """Return the step fit for JSON."""
        return {
            "compile_s": round(self.seconds, 1),
            "memory_mb": self.memory,
            "needed_mb": self.needed,
            "error": self.error or None,
            "gflop": round(self.operations / 1e9, 3),
            "memory_traffic_mb": round(self.memory_bytes / MEGA, 1),
            "collectives": self.collected(),
            "slow_accesses": [dataclasses.asdict(one) for one in self.slow],
            "loops_of_unknown_length": self.loops,
        }


@dataclasses.dataclass(frozen=True)
class Steps:
    """The compiled steps of a config on a slice. `training` is None for a task without training steps.

    `parameters` are the megabytes of the trained parameters. `shared` are the megabytes per chip that evaluation shares with
    the training state, because both programs are on the chip at the same time.
    """

    config: ConfigDict
    where: Slice
    training: Step | None
    evaluation: tuple[Step, ...]
    parameters: float
    shared: float

    def needed(self, step: Step) -> float | None:
        """Return the megabytes of a chip in use while a step runs, or None if unknown."""
        if step is self.training or self.training is None or step.needed is None:
            return step.needed
        if self.training.memory is None:
            return None
        held = self.training.memory
        return step.needed - self.shared + held["arguments"] + held["code"]

    def fits(self, step: Step) -> bool:
        """Return whether a step fits the memory, or only whether it compiled if the memory is unknown."""
        capacity, needed = self.where.memory, self.needed(step)
        if step.memory is None:
            return False
        return capacity is None or needed is None or needed * MEGA <= capacity

    @property
    def all(self) -> tuple[Step, ...]:
        return (*([] if self.training is None else [self.training]), *self.evaluation)

    def estimate(self) -> dict[str, Any] | None:
        """Return the roofline of the training step, or None without one, if it does not fit, or on unknown chips."""
        step = self.training
        if step is None or step.memory is None:
            return None
        images = self.config.train.batch_size
        return estimate(step.operations, step.memory_bytes, step.collectives, self.where, images)


def compile_steps(
    config: ConfigDict, task: Task, num_classes: int, where: Slice, say: Callable[[str], None] = print
) -> Steps:
    """Compile the steps of a config for a slice, without allocating or running anything. `say` prints the progress.

    Raise UserError if the chips do not divide the batch sizes, or if XLA fails for another reason than memory.
    """
    mesh = sharding.make_mesh(config.mesh, where.devices)
    if mesh.shape["member"] > 1:
        raise UserError(f"config.mesh={tuple(config.mesh)}: preflight checks one run, without members; use (1, -1, 1)")
    sharding.check_batch_size("train.batch_size", config.train.batch_size, mesh, config.optim.accumulate)
    sharding.check_batch_size("eval.batch_size", config.eval.batch_size, mesh)
    architecture, shapes, trained = states.describe(config, num_classes)
    lasting = architecture.lasting(shapes)
    placed = sharding.tree_shardings(lasting, mesh)
    own = sum(math.prod(placed[name].shard_shape(one.shape)) * one.dtype.itemsize for name, one in lasting.items())
    training, evaluation = None, []
    if not task.solves:
        say(f"compiling the training step for {where.name} ...")
        parts = config.optim.accumulate
        training = _compile("training", lambda: compile_training(config, task, num_classes, mesh), parts)
    for canvas in list_canvases(config.data):
        say(f"compiling the evaluation step of {canvas[0]}x{canvas[1]} ...")
        make = lambda canvas=canvas: compile_evaluation(config, task, num_classes, canvas, mesh)  # noqa: E731
        evaluation.append(_compile(f"evaluation {canvas[0]}x{canvas[1]}", make, 1))
    parameters = sum(math.prod(shapes[name].shape) * shapes[name].dtype.itemsize for name in trained)
    return Steps(config, where, training, tuple(evaluation), parameters / MEGA, own / MEGA)


def _compile(name: str, make: Callable[[], jax.stages.Compiled], parts: int) -> Step:
    began = time.perf_counter()
    try:
        compiled = make()
    except jax.errors.JaxRuntimeError as error:
        said = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in said:
            raise UserError(f"the {name} step does not compile: {said[:400]}") from error
        wanted = read_wanted(said)
        return Step(name, time.perf_counter() - began, error=said[:300], wanted=wanted)
    seconds = time.perf_counter() - began
    program, counted = Program(compiled.as_text() or ""), compiled.cost_analysis() or {}
    return Step(
        name,
        seconds,
        memory(compiled),
        parts * counted.get("flops", 0.0),
        parts * counted.get("bytes accessed", 0.0),
        tuple(program.collectives()),
        tuple(program.accesses()),
        program.loops,
    )


def read_wanted(said: str) -> float | None:
    """Return the megabytes that XLA needs, from its message about too little memory, or None if it has none."""
    size = re.search(r"(?:Used |required for HLO temporaries \()(\d+(?:\.\d+)?)([KMGT])", said)
    return size and float(size[1]) * 2.0 ** (10 * " KMGT".index(size[2])) / MEGA
