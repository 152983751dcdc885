"""The device mesh, and who holds which part of what.

Data parallelism needs no code of its own: the step is written for the global batch, the batch's rows are spread over
`data` and `fsdp`, and XLA inserts the reductions (so BatchNorm's statistics, too, are those of the global batch).
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from errors import UserError

AXES = ("member", "data", "fsdp")


def make_mesh(sizes: tuple[int, int, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `devices`, by default all; one of the sizes may be -1. Raises UserError where it cannot be laid out."""
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    known = int(np.prod([size for size in sizes if size != -1]))
    filled = tuple(count // known if size == -1 else size for size in sizes)
    if sizes.count(-1) > 1 or int(np.prod(filled)) != count:
        raise UserError(f"config.mesh={tuple(sizes)} does not lay out {count} device(s) along {AXES}; use (1, -1, 1)")
    # jax's default has become Explicit axes, under which scatters and einsums over a sharded batch fail.
    return jax.make_mesh(filled, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def split_members(mesh: Mesh) -> list[Mesh]:
    """The meshes along the axis `member`: each is that of a run alone on its devices."""
    return [Mesh(devices[None], AXES, axis_types=mesh.axis_types) for devices in mesh.devices]


def partition(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How the array called `name` is laid out: its largest axis that divides over `fsdp`; scalars and rests replicated."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or not axes or len(shape) < 2:
        return PartitionSpec()
    largest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def tree_shardings(tree, mesh: Mesh):
    """`partition` over a tree of arrays (or of their shapes)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, partition(jax.tree_util.keystr(path), leaf.shape, mesh)), tree
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of the global batch over every device of the mesh but `member`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(name: str, size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError unless `size` rows divide over the devices (and the micro-batches)."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * accumulate
    if size % parts:
        raise UserError(
            f"config.{name}={size} does not divide over {parts} (data-parallel devices x optim.accumulate); "
            f"use a multiple of {parts}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch -> the global batch on the devices."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def local_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch on the devices that this process has fed, in their order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def gather_text(text: str) -> list[str]:
    """The text of every process, in the order of the processes, in each of them."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(own)))
    padded = np.pad(own, (0, int(lengths.max()) - len(own)))
    everyone = multihost_utils.process_allgather(padded)
    return [bytes(rows[:length]).decode() for rows, length in zip(everyone, lengths.tolist(), strict=True)]
