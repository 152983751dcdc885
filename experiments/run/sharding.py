"""The device mesh, and the layout of arrays on it.

Data parallelism needs no separate code. The step is written for the global batch, whose rows are spread over `data` and
`fsdp`. XLA inserts the reductions, so BatchNorm's statistics are also those of the global batch.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from errors import UserError

AXES = ("member", "data", "fsdp")


def make_mesh(
    sizes: tuple[int, int, int],
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm] - jaxlib has no stub for it
) -> Mesh:
    """Make the mesh of `devices`, by default all. One size may be -1. Raises UserError if the sizes do not fit."""
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    known = int(np.prod([size for size in sizes if size != -1]))
    filled = tuple(count // known if size == -1 else size for size in sizes)
    if sizes.count(-1) > 1 or int(np.prod(filled)) != count:
        raise UserError(f"config.mesh={tuple(sizes)} does not fit {count} device(s) along {AXES}; use (1, -1, 1)")
    # jax now defaults to Explicit axes, under which scatters and einsums over a sharded batch fail.
    return jax.make_mesh(filled, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def split_members(mesh: Mesh) -> list[Mesh]:
    """Return one mesh per index of the axis `member`, each the mesh of a run alone on its devices."""
    return [Mesh(devices[None], AXES, axis_types=mesh.axis_types) for devices in mesh.devices]


def partition(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Return the layout of an array. Its largest axis that divides over `fsdp` is split, else it is replicated."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or not axes or len(shape) < 2:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """Return the sharding of each array in a tree, by `partition`. Shapes may stand in for arrays."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition(jax.tree_util.keystr(path), leaf.shape, mesh)), tree
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding that spreads the rows of the global batch over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(name: str, size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise UserError unless `size` rows divide evenly over the devices and micro-batches."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if size % parts:
        raise UserError(
            f"config.{name}={size} does not divide over {parts} (data-parallel devices x optim.accumulate); "
            f"use a multiple of {parts}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows of a batch on its devices, and return the global batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """Return the rows of a batch that are on this process's devices, in their order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def gather_text(text: str) -> list[str]:
    """Return the texts of all processes in their order. Every process must call this."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(own)))
    padded = np.pad(own, (0, int(lengths.max()) - len(own)))
    everyone = multihost_utils.process_allgather(padded)
    return [bytes(rows[:length]).decode() for rows, length in zip(everyone, lengths.tolist(), strict=True)]
