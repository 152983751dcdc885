"""TPU chips with the figures that Google publishes, and slices, which libtpu describes on a machine without a TPU."""

import dataclasses
import math
import os
import re

import jax
from jax.experimental import topologies

from errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The memory and the speeds of one chip.

    `memory` is its HBM in bytes. Per second, `operations` are in bf16, `bandwidth` is in bytes of HBM, and `sent` is in bytes
    over all `links` together. Along an axis of a slice whose size is a multiple of `ring` the chips form a ring, else a line.
    """

    name: str
    device_kind: str
    memory: int
    operations: float
    bandwidth: float
    sent: float
    links: int
    ring: int


# Retrieved from docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e, which add up both directions of the interconnect.
CHIPS = {
    "v5e": Chip("v5e", "TPU v5 lite", 16 * GIB, 197e12, 819e9, 400e9 / 2, links=4, ring=16),
    "v5p": Chip("v5p", "TPU v5", 95 * GIB, 459e12, 2765e9, 1200e9 / 2, links=6, ring=4),
    "v6e": Chip("v6e", "TPU v6 lite", 32 * GIB, 918e12, 1600e9, 800e9 / 2, links=4, ring=16),
}
RESERVED = GIB // 4  # of the memory: XLA uses 15.75 GiB of v5e's 16
HOP = 1e-6  # seconds to the next chip, the value of astra-sim.github.io's validation on TPUs
QUIET = {  # libtpu asks no metadata server and prints no warnings
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it opens no device, so two can run at a time
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """The devices to compile for. `chip` is None for a CPU or a GPU. `memory` is per device, in bytes, None if unknown."""

    name: str
    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm] - jaxlib has no stub for it
    shape: tuple[int, ...]
    chip: Chip | None
    memory: int | None

    @property
    def sent(self) -> float:
        """The bytes per second that a chip sends, over two links along a ring and one along a line. 0 if unknown."""
        if self.chip is None:
            return 0.0
        links = sum((2 if size % self.chip.ring == 0 else 1) for size in self.shape if size > 1)
        return self.chip.sent * links / self.chip.links

    @property
    def hops(self) -> int:
        """The number of links between the two chips farthest apart. 0 if unknown."""
        if self.chip is None:
            return 0
        return sum(size // 2 if size % self.chip.ring == 0 else size - 1 for size in self.shape)


def open_slice(topology: str) -> Slice:
    """Describe the slice of a topology such as `v5e:16x16`, without a TPU, or `local`, the devices of this machine.

    Raise UserError if the topology does not exist or libtpu is missing.
    """
    if topology == "local":
        return _open_local()
    named = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    if not named or named[1] not in CHIPS:
        raise UserError(
            f"--topology={topology!r} is unknown; choose a slice such as v5e:16x16, v5p:4x4x4 or v6e:2x2 "
            f"({', '.join(CHIPS)}), local or pod"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # libtpu only compiles: do not search for a TPU here
    chip = CHIPS[named[1]]
    try:
        devices = tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:
        said = " ".join(str(error).split())
        if "not installed" in said:
            raise UserError(
                f"--topology={topology} needs libtpu, which is not installed; run pip install -r requirements-tpu.txt"
            ) from None
        raise UserError(
            f"--topology={topology} cannot be described ({said[:200]}); the smallest slice is 2x2"
        ) from None
    shape = tuple(map(int, named[2].split("x")))
    if math.prod(shape) != len(devices):
        raise UserError(f"--topology={topology} has {len(devices)} devices, not one per chip; choose v5e, v5p or v6e")
    return Slice(topology, devices, shape, chip, chip.memory - RESERVED)


def _open_local() -> Slice:
    devices = tuple(jax.devices())
    chip = next((chip for chip in CHIPS.values() if chip.device_kind == devices[0].device_kind), None)
    stats = devices[0].memory_stats() or {}
    shape = tuple(len({device.coords[axis] for device in devices}) for axis in range(3)) if chip else (len(devices),)
    return Slice("local", devices, shape, chip, stats.get("bytes_limit"))
