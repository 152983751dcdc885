"""TPU chips, by what Google publishes of them, and slices of them, described by libtpu on a machine without one."""

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
    """What one chip has: HBM in bytes, and rates a second: bf16 operations, bytes of HBM, bytes sent by all `links` together.

    Along an axis of a slice that is a multiple of `ring` the chips form a ring; along others, a line.
    """

    name: str
    device_kind: str
    memory: int
    operations: float
    bandwidth: float
    sent: float
    links: int
    ring: int


# Retrieved from docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e. They give the interconnect in both directions together.
CHIPS = {
    "v5e": Chip("v5e", "TPU v5 lite", 16 * GIB, 197e12, 819e9, 400e9 / 2, links=4, ring=16),
    "v5p": Chip("v5p", "TPU v5", 95 * GIB, 459e12, 2765e9, 1200e9 / 2, links=6, ring=4),
    "v6e": Chip("v6e", "TPU v6 lite", 32 * GIB, 918e12, 1600e9, 800e9 / 2, links=4, ring=16),
}
RESERVED = GIB // 4  # of the memory: XLA has 15.75 GiB of v5e's 16
HOP = 1e-6  # seconds to the next chip, as astra-sim.github.io's validation on TPUs takes them
QUIET = {  # libtpu asks no server for what it is, and prints none of its warnings
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it opens no device: two of these can run at a time
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to compile for. Of unknown ones, a CPU or a GPU, `chip` is None; `memory` of one in bytes, None if unknown."""

    name: str
    devices: tuple[jax.Device, ...]
    shape: tuple[int, ...]
    chip: Chip | None
    memory: int | None

    @property
    def sent(self) -> float:
        """The bytes a second that a chip sends along the axes of this slice: two links of a ring, one of a line."""
        links = sum((2 if size % self.chip.ring == 0 else 1) for size in self.shape if size > 1)
        return self.chip.sent * links / self.chip.links

    @property
    def hops(self) -> int:
        """From a chip to the one that is farthest away."""
        return sum(size // 2 if size % self.chip.ring == 0 else size - 1 for size in self.shape)


def open_slice(topology: str) -> Slice:
    """Describe `v5e:16x16` and its like, for which no device is needed, or `local`, the devices that are here.

    Raise UserError for a topology that does not exist, and where libtpu is missing.
    """
    if topology == "local":
        return _open_local()
    named = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    if not named or named[1] not in CHIPS:
        raise UserError(
            f"--topology={topology!r} is unknown; give a slice such as v5e:16x16, v5p:4x4x4 or v6e:2x2 "
            f"({', '.join(CHIPS)}), local or pod"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # libtpu compiles alone: it is not to look for a TPU here
    chip = CHIPS[named[1]]
    try:
        devices = tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:
        said = " ".join(str(error).split())
        if "not installed" in said:
            raise UserError(
                f"--topology={topology} needs libtpu, which is not installed; pip install -r requirements-tpu.txt"
            ) from None
        raise UserError(
            f"--topology={topology} cannot be described ({said[:200]}); the smallest slice is 2x2"
        ) from None
    shape = tuple(map(int, named[2].split("x")))
    if math.prod(shape) != len(devices):
        raise UserError(
            f"--topology={topology} has {len(devices)} devices, not one a chip; such chips are not supported"
        )
    return Slice(topology, devices, shape, chip, chip.memory - RESERVED)


def _open_local() -> Slice:
    devices = tuple(jax.devices())
    chip = next((chip for chip in CHIPS.values() if chip.device_kind == devices[0].device_kind), None)
    stats = devices[0].memory_stats() or {}
    shape = tuple(len({device.coords[axis] for device in devices}) for axis in range(3)) if chip else (len(devices),)
    return Slice("local", devices, shape, chip, stats.get("bytes_limit"))
