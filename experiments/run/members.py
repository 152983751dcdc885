"""Runs that differ only in their seed and train together, each in its own directory, as if it were trained alone."""

import math
import pathlib
from collections.abc import Iterator

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from errors import UserError
from experiments.run import sharding
from experiments.run.directory import adopt
from experiments.run.lane import Lane, VmappedLane
from experiments.run.loop import Loop
from experiments.run.preemption import Preemption
from experiments.run.spread import format_spread, measure_spread, write_spread
from experiments.run.trainer import Trainer

LAST_SEED = 2**32 - 1


class Members:
    """The runs of a config with `members` greater than 1. Make them, then call `restore`, then `run`.

    They see the same batches. Members with devices of their own take their steps at the same time. Members that share devices
    take them in turn in the program of a single run, or as one step with config.vmap.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, data_dir: str | None, stop: Preemption):
        self.config, self.workdir, self.stop = config, workdir, stop
        meshes = lay_out(config)
        self.runs: list[Trainer] = []
        for number, (place, own) in enumerate(split(config, workdir).items()):
            # Member k is on mesh k % M of M. Its peer is the first member there: programs are compiled for devices.
            peer = self.runs[number % len(meshes) if number >= len(meshes) else 0] if self.runs else None
            self.runs.append(Trainer(own, place, data_dir, stop, meshes[number % len(meshes)], peer))
        if self.runs[0].task.solves:
            raise UserError(
                f"config.members={config.members}: config.task.name={config.task.name!r} is solved for, not trained; use 1"
            )
        make = VmappedLane if config.vmap and len(self.runs) > len(meshes) else Lane
        self.lanes = [make(self.runs[first :: len(meshes)]) for first in range(len(meshes))]
        self.words = describe(config, len(meshes))  # how they share devices

    def restore(self, accept_lost_rows: bool = False) -> None:
        """Restore each run from its own newest checkpoint. Runs that are ahead then wait for the others."""
        for run in self.runs:
            run.restore(accept_lost_rows)
        adopt(self.workdir, self.config)

    def run(self, trace: pathlib.Path | None) -> None:
        """Train from the restored steps to the last one, or to a stop. `stop.finished` says which.

        A profile is written to `trace`, None for no profile.
        """
        try:
            if Loop(self.lanes).run(trace):
                spread = measure_spread({run.workdir.name: run.journal.rows()[-1] for run in self.runs})
                write_spread(self.workdir, spread)
                print(
                    f"{format_spread(spread)}\n\nfinished {len(self.runs)} members at step {self.config.train.steps}: "
                    f"{self.workdir}/{self.runs[0].workdir.name} to {self.runs[-1].workdir.name}"
                )
            else:
                saved = {run.checkpoints.steps()[-1] for run in self.runs if run.checkpoints.steps()}
                steps = ", ".join(map(str, sorted(saved)))
                print(f"{self.stop.cause}: step {steps} is saved, start the same command again to go on")
        finally:
            _close(self.runs)


def split(config: ConfigDict, workdir: pathlib.Path) -> dict[pathlib.Path, ConfigDict]:
    """Return the directory and the config of each member, as a single run with its seed has them.

    Raises UserError for seeds beyond 32 bits.
    """
    last = config.seed.init + config.members - 1
    if last > LAST_SEED:
        raise UserError(
            f"config.members={config.members}: the last member's seed.init would be {last}, and the largest is {LAST_SEED}; "
            "lower config.seed.init"
        )
    return dict(_split(config, workdir))


def _split(config: ConfigDict, workdir: pathlib.Path) -> Iterator[tuple[pathlib.Path, ConfigDict]]:
    for seed in range(config.seed.init, config.seed.init + config.members):
        own, name = config.copy_and_resolve_references(), f"seed={seed}"
        own.members, own.vmap, own.seed.init = 1, False, seed
        own.mesh = (1, -1, config.mesh[2])
        # So that W&B shows them side by side.
        own.wandb.group = config.wandb.group or workdir.name
        own.wandb.name = f"{config.wandb.name or workdir.name},{name}"
        yield workdir / name, own


def lay_out(config: ConfigDict) -> list[Mesh]:
    """Return the meshes that the members share. Member k uses mesh k modulo their number.

    The first size of config.mesh is their number. With (1, -1, 1) each member gets devices of its own
    if there are enough.
    Raises UserError where the members cannot be divided evenly over the meshes, and in a job of several processes.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"config.members={config.members} works in one process only; start one process, or one run per seed"
        )
    count, (first, *others) = jax.device_count(), config.mesh
    if first == 1 and -1 in others:
        fixed = math.prod(size for size in others if size != -1)
        first = math.gcd(config.members, max(count // fixed, 1))
    meshes = sharding.split_members(sharding.make_mesh((first, *others)))
    if config.members % len(meshes):
        raise UserError(
            f"config.members={config.members} is not a multiple of the {len(meshes)} groups of devices of "
            "config.mesh[0]; use a multiple"
        )
    return meshes


def describe(config: ConfigDict, lanes: int) -> str:
    """Return a line that says which members share devices."""
    each, own = config.members // lanes, jax.device_count() // lanes
    devices = f"{own} device{'s' * (own > 1)}"
    if each == 1:
        return f"{config.members} members, each on {devices} of its own"
    how = "their steps as one (config.vmap)" if config.vmap else "their steps in turn"
    where = f"{each} on each {devices}" if lanes > 1 else f"all on {devices}"
    return f"{config.members} members, {where}, {how}"


def _close(runs: list[Trainer]) -> None:
    """Close every run, even if closing one of them fails."""
    if runs:
        try:
            runs[0].close()
        finally:
            _close(runs[1:])
