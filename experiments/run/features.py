"""Features of the regions of a split, stored once in the folder of the run that learns from them."""

import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import TypeGuard

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from errors import UserError
from experiments.run import sharding
from experiments.run.checksums import digest
from experiments.run.inference import Interrupted
from experiments.run.preemption import Preemption
from experiments.run.state import Architecture, Variables
from experiments.tasks.base import SolvedTask, Task
from files import claim_folder
from input_pipeline.sources import Part, Source
from input_pipeline.stored_arrays import read_arrays, write_arrays
from input_pipeline.truths import make_truth
from input_pipeline.views import ViewBatches
from terminal import Count
from wording import count

BLOCK = 16  # images per file, which a kill can lose
OTHERS = (
    "holds features of other weights or data than config.init_from and config.data name now; delete it to compute them again, "
    "or choose another --workdir"
)


def is_solved(task: Task) -> TypeGuard[SolvedTask]:
    """Return whether a task solves for variables of the model instead of training it."""
    return bool(task.solves)


class Block(Mapping[str, np.ndarray]):
    """The arrays of one file by name. Each is read when it is needed."""

    def __init__(self, place: pathlib.Path):
        self._place = place

    def __getitem__(self, name: str) -> np.ndarray:
        return read_arrays(self._place, name)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(read_arrays(self._place))

    def __len__(self) -> int:
        return len(list(iter(self)))


class StoredFeatures:
    """The arrays that `task.describe` returns for the `count` images of a split, in files of BLOCK images in `folder`.

    A file is complete or does not exist. Iterating yields the Block of each file, with the rows of all its images, and raises
    Interrupted as soon as a stop is requested. `compilations` counts the programs that were compiled to make the arrays.
    """

    def __init__(self, folder: pathlib.Path, count: int, stop: Preemption):
        self.folder, self.count, self.compilations, self._stop = folder, count, 0, stop
        self._ranges = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]

    def __iter__(self) -> Iterator[Block]:
        for indices in self._ranges:
            if self._stop.requested():
                raise Interrupted
            yield Block(self._place(indices))

    def missing(self) -> list[range]:
        """Return the images of each file that does not exist yet."""
        return [indices for indices in self._ranges if not self._place(indices).exists()]

    def write(self, indices: range, arrays: Mapping[str, np.ndarray]) -> int:
        """Write the arrays of the images `indices`, one range of `missing`. Returns the bytes of the file."""
        size = write_arrays(self._place(indices), arrays)
        self._stop.nothing_to_lose = False
        return size

    def _place(self, indices: range) -> pathlib.Path:
        return self.folder / f"{indices.start // BLOCK:06}.npz"


def check_stage(config: ConfigDict, task: Task, variables: Variables, fresh: bool) -> None:
    """Check a run of a SolvedTask. It starts with `variables`, and is `fresh` if it does not resume.

    Raises UserError for training steps, for a model without the variables to solve for, and for a start without the weights of
    the stage before.
    """
    if not is_solved(task):
        return
    name = config.task.name
    if config.train.steps:
        raise UserError(
            f"config.train.steps={config.train.steps}: config.task.name={name!r} is solved for, not trained; use 0"
        )
    lacking = [path for path in task.solves if path not in variables]
    if lacking:
        raise UserError(
            f"config.task.name={name!r} solves for {lacking[0]}, which this config.model.name={config.model.name!r} does not "
            f"have; {task.remedy}"
        )
    zero = [path for path in task.builds_on if fresh and not np.asarray(variables[path]).any()]
    if zero:
        raise UserError(
            f"config.task.name={name!r} needs trained values of {zero[0]}, which are zero; set "
            "config.init_from to a run of the stage before it"
        )


def store_features(
    config: ConfigDict,
    task: SolvedTask,
    architecture: Architecture,
    variables: Variables,
    source: Source,
    mesh: Mesh,
    folder: pathlib.Path,
    stop: Preemption,
) -> StoredFeatures:
    """Store the arrays that `task.describe` returns for each image of `source`, seen as in an evaluation without augmentation.

    Images that are stored already are kept. Raises UserError where `folder` holds features of other weights or data, where the
    disk is too small for all, where an image takes several windows, and in a job of several processes. Raises Interrupted as
    soon as a stop is requested.
    """
    if jax.process_count() > 1:
        raise UserError(f"config.task.name={config.task.name!r} works in one process only; start a single one")
    config = config.copy_and_resolve_references()
    config.eval.update(method="whole", flip=False, scales=(1.0,))
    facts = {"weights": digest(jax.device_get(variables)), "data": source.fingerprint}
    claim_folder(folder, facts, OTHERS)
    stored, truth = StoredFeatures(folder, len(source), stop), make_truth(task.needs, config.data)

    def describe(variables: Variables, batch: dict) -> tuple:
        return task.describe(architecture.merge(variables), batch)

    step, compiled = jax.jit(describe, out_shardings=sharding.batch_sharding(mesh)), {}
    missing = stored.missing()
    done = len(source) - sum(map(len, missing))
    with Count("features", len(source), done) as progress:
        for number, indices in enumerate(missing):
            found: list[dict[str, np.ndarray]] = []
            for rows, pieces in ViewBatches(Part(source, indices), truth, config.data, config.eval):
                if stop.requested():
                    raise Interrupted
                if any(piece.count > 1 for piece in pieces):
                    raise UserError(
                        f"config.data.fit={config.data.fit!r} shows an image of {config.data.train_split} in several windows, "
                        "and a region would count in each; set config.data.canvases to sizes that hold a whole image"
                    )
                batch = sharding.put_batch(rows, mesh)
                if batch["image"].shape not in compiled:
                    compiled[batch["image"].shape] = step.lower(variables, batch).compile()
                arrays, kept = jax.device_get(compiled[batch["image"].shape](variables, batch))
                found += [{name: own[row][kept[row]] for name, own in arrays.items()} for row in range(len(pieces))]
            size = stored.write(indices, {name: np.concatenate([own[name] for own in found]) for name in found[0]})
            if not number:
                _check_room(folder, size * (len(missing) - 1), len(source))
            progress.add(len(indices))
    stored.compilations = len(compiled)
    size = sum(place.stat().st_size for place in folder.glob("*.npz"))
    print(f"features of {count(len(source), 'image')}, {size / 2**20:,.0f} MiB, in {folder}", flush=True)
    return stored


def _check_room(folder: pathlib.Path, size: int, count: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"the features of {count} images need {size / 2**30:,.1f} GiB more in {folder}, and the disk has "
            f"{free / 2**30:,.1f} GiB left; make room and start the same command again, or lower config.data.max_proposals"
        )
