"""Runs that share devices, and the compiled programs that take their steps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.run import sharding
from experiments.run.evidence import flops
from experiments.run.step import compile_step
from input_pipeline.batch import check_batch

Run = Any  # a Trainer, which imports this file
# On a CPU, jax 0.10.2 runs the reductions of a mapped step with YNNPACK, which mixes up the values of members (jax issue
# 39103). Without YNNPACK the step is a fifth slower, and correct.
EXACT = {"xla_cpu_experimental_ynn_fusion_type": ""}


class Lane:
    """Runs on the same devices that take their steps in turn, in the program of a single run.

    Their results are those of single runs bit for bit. A run whose checkpoint is ahead waits until the others reach its step.
    """

    def __init__(self, runs: Sequence[Run]):
        self.runs, self.mesh = runs, runs[0].mesh
        self.compiled: jax.stages.Compiled | None = None
        for run in runs:
            run.lane = self

    @property
    def flops(self) -> float | None:
        """The floating point operations of a step of one run, as evidence.flops counts them."""
        return flops(self.compiled) if self.compiled else None

    def compile(self, rows: dict[str, np.ndarray]) -> None:
        """Compile the step for batches like `rows`, and the evaluation."""
        first = self.runs[0]
        check_batch(rows, first.truth.keys)
        self.compile_step(sharding.put_batch(rows, self.mesh))
        first.evaluator.inference.compile(first.evaluated(), first.evaluator.source)

    def compile_step(self, batch: dict[str, jax.Array]) -> None:
        """Compile the step alone."""
        first = self.runs[0]
        self.compiled = compile_step(first.train_step, first.state, batch, first.key)

    def advance(self, step: int, rows: dict[str, np.ndarray]) -> None:
        """Start step `step` of each run that is not ahead of it, without waiting for the devices."""
        assert self.compiled is not None, "compile comes first"
        batch = sharding.put_batch(rows, self.mesh)
        for run in self.runs:
            if run.first < step:
                run.state, run.logs = self.compiled(run.state, batch, run.key)

    def settle(self) -> None:
        """Give each run its own state, before it is evaluated or saved."""


class VmappedLane(Lane):
    """Runs on the same devices whose steps are one program, the step mapped over a stack of their states.

    A single run has the same numbers except for rounding. The result of a run does not depend on the values of the others.
    """

    def __init__(self, runs: Sequence[Run]):
        super().__init__(runs)
        self._stack = jax.jit(lambda states: jax.tree.map(lambda *values: jnp.stack(values), *states))
        self._split = jax.jit(lambda stack: tuple(_take(stack, slot) for slot in range(len(runs))))
        self._put = jax.jit(
            lambda stack, slot, state: jax.tree.map(lambda values, value: values.at[slot].set(value), stack, state),
            donate_argnums=0,
        )
        self._keys = jnp.stack([run.key for run in runs])
        self._states: Any = None
        self._step = 0  # the last step that they have taken

    @property
    def flops(self) -> float | None:
        count = super().flops
        return None if count is None else count / len(self.runs)

    def compile_step(self, batch: dict[str, jax.Array]) -> None:
        step, count = jax.vmap(self.runs[0].train_step, in_axes=(0, None, 0)), len(self.runs)

        def split_logs(stack, batch, keys):
            stack, logs = step(stack, batch, keys)
            return stack, tuple(_take(logs, slot) for slot in range(count))

        self._states = self._stack(tuple(run.state for run in self.runs))
        self.compiled = compile_step(split_logs, self._states, batch, self._keys, EXACT)

    def advance(self, step: int, rows: dict[str, np.ndarray]) -> None:
        assert self.compiled is not None, "compile comes first"
        batch = sharding.put_batch(rows, self.mesh)
        for slot, run in enumerate(self.runs):
            if run.first == step - 1:  # its slot was computed with the others while it waited
                self._states = self._put(self._states, slot, run.state)
        self._states, logs = self.compiled(self._states, batch, self._keys)
        for run, own in zip(self.runs, logs, strict=True):
            if run.first < step:
                run.logs = own
        self._step = step

    def settle(self) -> None:
        if self._states is not None:
            for run, state in zip(self.runs, self._split(self._states), strict=True):
                if run.first < self._step:
                    run.state = state


def _take(stack: Any, slot: int) -> Any:
    return jax.tree.map(lambda values: values[slot], stack)
