"""Checksums of the arrays of a checkpoint, wherever their parts are."""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.run.sharding import gather_text

Arrays = Mapping[str, Any]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd constants of the generator SplitMix64
MIX = (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))
CHUNK = 2**20  # elements hashed at a time


def is_here(value: Any) -> bool:
    """Return whether this process holds the whole array."""
    return isinstance(value, np.ndarray) or value.is_fully_addressable or value.is_fully_replicated


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def describe(arrays: Arrays, like: Mapping | None = None) -> dict[str, Any]:
    """Return the checksum of the arrays in the form that a checkpoint's notes store.

    It is `sha256`, or `sums` if no process holds all of the arrays. If notes `like` are given, their kind is computed.
    """
    whole = all(map(is_here, arrays.values())) if like is None else like["sha256"] is not None
    return {"sha256": digest(arrays), "sums": None} if whole else {"sha256": None, "sums": sum_parts(arrays)}


def sum_parts(arrays: Arrays) -> dict[str, str]:
    """Return a 64-bit checksum for each array that is the same for every layout over devices and processes.

    It is the sum, modulo 2**64, of a hash of each element's place and bits. Each process sums the parts that it holds. A
    numpy array is whole in every process and counts once. All processes must call this. `digest` is stronger; use this
    only for arrays that no process holds whole.
    """
    own = {name: _sum_here(array) for name, array in arrays.items()}
    parted = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    everyone = (
        [json.loads(text) for text in gather_text(json.dumps({name: own[name] for name in parted}))] if parted else []
    )
    total = own | {name: sum(one[name] for one in everyone) % 2**64 for name in parted}
    return {name: f"{total[name] % 2**64:016x}" for name in own}


def _sum_here(array: Any) -> int:
    """Sum the parts of an array in this process. Of several copies of a part only the first counts."""
    if isinstance(array, np.ndarray):
        return _sum_part(array, tuple(slice(size) for size in array.shape), array.shape)
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return sum(_sum_part(np.asarray(shard.data), shard.index, array.shape) for shard in shards)


def _sum_part(part: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    if not shape:
        part, index, shape = part[None], (slice(0, 1),), (1,)
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]  # of the whole array, in elements
    axes = [
        (np.arange(size) + (own.start or 0)) * stride
        for own, size, stride in zip(index, part.shape, strides, strict=True)
    ]
    rows = max(CHUNK * len(part) // max(part.size, 1), 1)
    total = 0
    for first in range(0, len(part), rows):
        some = np.ascontiguousarray(part[first : first + rows])
        places = functools.reduce(np.add.outer, [axes[0][first : first + rows], *axes[1:]]).reshape(-1)
        mixed = _mix(places.astype(np.uint64))
        padded = np.zeros((some.size, -(-some.itemsize // 8) * 8), np.uint8)
        padded[:, : some.itemsize] = some.reshape(-1, 1).view(np.uint8)
        for word in padded.view(np.uint64).T:
            mixed = _mix(mixed ^ word)
        total += int(mixed.sum(dtype=np.uint64))
    return total


def _mix(values: np.ndarray) -> np.ndarray:
    """Apply SplitMix64's output function. Each bit of the result depends on every bit of the value."""
    with np.errstate(over="ignore"):
        mixed = values + GOLDEN
        for shift, factor in MIX:
            mixed = (mixed ^ (mixed >> shift)) * factor
        return mixed ^ (mixed >> np.uint64(31))
