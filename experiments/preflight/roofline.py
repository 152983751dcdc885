"""The lower bound of a compiled step's time on a slice, from the speeds of chips, memory and links."""

from collections.abc import Sequence
from typing import Any

from experiments.preflight.chips import HOP, Slice
from experiments.preflight.hlo import Collective


def estimate(
    operations: float, memory_bytes: float, collectives: Sequence[Collective], where: Slice, images: int
) -> dict[str, Any] | None:
    """Return the seconds of each part and of the step, and the efficiency of a chip relative to a single one.

    Operations run at the bf16 peak, because XLA computes float32 convolutions in bf16 by default. For `efficiency` a chip
    computes and moves its memory at the same time, and then waits for collectives; for `efficiency_at_best` all of them
    overlap. `images` is the batch size of the whole slice. A single chip has its share of the batch and no collectives.
    Return None if the chip is unknown.
    """
    chip = where.chip
    if chip is None:
        return None
    compute, memory = operations / chip.operations, memory_bytes / chip.bandwidth
    sent = sum(one.sent * one.count for one in collectives) / where.sent if where.sent else 0.0
    waits = HOP * where.hops * sum(one.count for one in collectives)  # until the data reaches the farthest chip
    alone, links = max(compute, memory), sent + waits
    times = {"compute": compute, "memory": memory, "links": sent, "latency": waits}
    return {f"{name}_s": seconds for name, seconds in times.items()} | {
        "step_s": alone + links,
        "bound": max(times, key=lambda name: times[name]),
        "images_per_second": images / (alone + links),
        "efficiency": alone / (alone + links),
        "efficiency_at_best": alone / max(alone, links),
    }
