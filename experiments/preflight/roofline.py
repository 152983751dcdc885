"""The least time that a compiled step can take on a slice: what the chips, their memory and their links are able to do."""

from collections.abc import Sequence

from experiments.preflight.chips import HOP, Slice
from experiments.preflight.hlo import Collective


def estimate(
    operations: float, memory_bytes: float, collectives: Sequence[Collective], where: Slice, images: int
) -> dict[str, float | str]:
    """Return seconds by what takes them, those of the step, and what a chip of the slice does of what one alone would do.

    Operations run at the bf16 peak: what XLA makes of float32 convolutions by default. A chip computes and moves its
    memory at the same time, and waits for collectives: `efficiency`. Where all of these overlap it is `efficiency_at_best`.
    `images` are of one step of the whole slice. One chip alone has a chip's share of the batch, and no collectives.
    """
    compute, memory = operations / where.chip.operations, memory_bytes / where.chip.bandwidth
    sent = sum(one.sent * one.count for one in collectives) / where.sent if where.sent else 0.0
    waits = HOP * where.hops * sum(one.count for one in collectives)  # what one chip sends goes to the farthest
    alone, links = max(compute, memory), sent + waits
    times = {"compute": compute, "memory": memory, "links": sent, "latency": waits}
    return {f"{name}_s": seconds for name, seconds in times.items()} | {
        "step_s": alone + links,
        "bound": max(times, key=times.get),
        "images_per_second": images / (alone + links),
        "efficiency": alone / (alone + links),
        "efficiency_at_best": alone / max(alone, links),
    }
