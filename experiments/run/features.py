"""Features of a split's regions, stored once in the folder of the run that learns from them."""

import io
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from errors import UserError
from experiments.run import sharding
from experiments.run.checkpoints import digest
from experiments.run.inference import Interrupted
from experiments.run.state import Architecture, Variables
from experiments.tasks.base import Task
from files import write_atomically
from input_pipeline.sources import Part, Source
from input_pipeline.truths import make_truth
from input_pipeline.views import ViewBatches

BLOCK = 16  # images of a file: what a kill can lose


class StoredFeatures:
    """The arrays that `task.describe` gives of the `count` images of a split, in files of BLOCK images below `folder`.

    A file is there whole or not at all. Iterating yields the arrays of each file by name, rows of all its images together,
    and raises Interrupted as soon as `stop()` is true.
    """

    def __init__(self, folder: pathlib.Path, count: int, stop: Callable[[], bool] = lambda: False):
        self.folder, self.count, self._stop = folder, count, stop
        self._ranges = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for indices in self._ranges:
            if self._stop():
                raise Interrupted
            place = self._place(indices)
            try:
                with np.load(place, allow_pickle=False) as content:
                    arrays = dict(content)
            except (OSError, ValueError, KeyError) as error:
                raise UserError(
                    f"{place} cannot be read ({error}); delete it and start the same command again"
                ) from error
            yield arrays

    def missing(self) -> list[range]:
        """The images of each file that is not there yet."""
        return [indices for indices in self._ranges if not self._place(indices).exists()]

    def write(self, indices: range, arrays: Mapping[str, np.ndarray]) -> int:
        """Keeps the arrays of the images `indices`, which are one of `missing`. Returns the bytes of the file."""
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_atomically(self._place(indices), content.getvalue())
        return len(content.getvalue())

    def _place(self, indices: range) -> pathlib.Path:
        return self.folder / f"{indices.start // BLOCK:06}.npz"


def store_features(
    config: ConfigDict,
    task: Task,
    architecture: Architecture,
    variables: Variables,
    source: Source,
    mesh: Mesh,
    folder: pathlib.Path,
    stop: Callable[[], bool],
) -> StoredFeatures:
    """Stores what `task` describes of each image of `source`, seen as in an evaluation: without augmentation.

    Images that are stored already stay. Raises UserError where `folder` holds those of other weights or data, where the
    disk has no room for all, and in a job of several processes; Interrupted as soon as `stop()` is true.
    """
    if jax.process_count() > 1:
        raise UserError(f"config.task.name={config.task.name!r} works in one process; start it without the others")
    config = config.copy_and_resolve_references()
    config.eval.update(method="whole", flip=False, scales=(1.0,))
    _claim(folder, {"weights": digest(jax.device_get(variables)), "data": source.fingerprint})
    stored, truth = StoredFeatures(folder, len(source), stop), make_truth(task.needs, config.data)

    def describe(variables: Variables, batch: dict) -> tuple:
        return task.describe(architecture.merge(variables), batch)

    compiled = jax.jit(describe, out_shardings=sharding.batch_sharding(mesh))
    missing = stored.missing()
    done = len(source) - sum(map(len, missing))
    with tqdm(total=len(source), initial=done, unit="image", desc="features", disable=None) as progress:
        for number, indices in enumerate(missing):
            batches, found = ViewBatches(Part(source, indices), truth, config.data, config.eval), []
            for rows, pieces in batches:
                if stop():
                    raise Interrupted
                arrays, kept = jax.device_get(compiled(variables, sharding.put_batch(rows, mesh)))
                found += [(arrays, row, kept[row]) for row in range(len(pieces))]
            names = found[0][0]
            size = stored.write(
                indices,
                {name: np.concatenate([arrays[name][row][kept] for arrays, row, kept in found]) for name in names},
            )
            if not number:
                _check_room(folder, size * (len(missing) - 1), len(source))
            progress.update(len(indices))
    size = sum(place.stat().st_size for place in folder.glob("*.npz"))
    print(f"features of {len(source)} images, {size / 2**20:,.0f} MiB, in {folder}", flush=True)
    return stored


def _claim(folder: pathlib.Path, facts: dict[str, str]) -> None:
    place = folder / "made_with.json"
    content = json.dumps(facts, indent=2).encode() + b"\n"
    if place.exists() and place.read_bytes() != content:
        raise UserError(
            f"{folder} holds features of other weights or data than config.init_from and config.data name now; delete it "
            "to compute them anew, or choose another --workdir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(place, content)


def _check_room(folder: pathlib.Path, size: int, count: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"the features of {count} images need {size / 2**30:,.1f} GiB more in {folder}, and the disk has "
            f"{free / 2**30:,.1f} GiB left; make room and start the same command again, or lower config.data.max_proposals"
        )
