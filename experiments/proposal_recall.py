"""Recall of the stored proposals, which is the most that a detector on proposals can reach."""

from typing import Any

import numpy as np

from errors import warn
from input_pipeline.objects import overlap

COUNTS = (10, 100, 300, 1000, 2000)  # numbers of an image's best proposals
OVERLAPS = (0.5, 0.7)  # IoUs from which on a proposal covers an object
ENOUGH = 0.9  # share of the objects, at the first of OVERLAPS; a smaller one gives a warning


def list_counts(most: int) -> tuple[int, ...]:
    """Return the COUNTS below `most`, the number of proposals in a batch, and `most`."""
    return (*(count for count in COUNTS if count < most), most)


def best_overlaps(boxes: np.ndarray, proposals: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """Return the largest IoU [M,K] of each of an image's boxes [M,4] with the first counts[k] of its proposals [P,4]."""
    best = np.zeros((len(boxes), max(counts) + 1))
    found = overlap(boxes, proposals[: max(counts)].astype(np.float64))
    best[:, 1 : 1 + found.shape[1]] = found
    return np.maximum.accumulate(best, axis=1)[:, list(counts)]


def summarise(best: np.ndarray, held: list[int], most: int) -> dict[str, Any]:
    """Return the report, fit for JSON. `best` [M,K] has all objects, at list_counts(most).

    `held` are the numbers of proposals of each image. Without objects the recall is None.
    """
    counts = list_counts(most)
    recall = {
        str(least): {
            str(count): float((best[:, k] >= least).mean()) if len(best) else None for k, count in enumerate(counts)
        }
        for least in OVERLAPS
    }
    return {"per_image": {"mean": float(np.mean(held)), "most": max(held)}, "recall": recall}


def print_recall(report: dict[str, Any]) -> None:
    """Print a report of `summarise`."""
    per_image, recall = report["per_image"], report["recall"]
    print(f"proposals: {per_image['mean']:.0f} per image and {per_image['most']} at most")
    counts = list(recall[str(OVERLAPS[0])])
    print(f"{'recall of the best':18}" + "".join(f"  {count:>7}" for count in counts))
    for least, row in recall.items():
        print(f"{f'at IoU {least}':18}" + "".join(f"  {_share(share):>7}" for share in row.values()))


def warn_of_recall(report: dict[str, Any]) -> None:
    """Warn where the proposals miss many objects, by such a report."""
    recall = report["recall"]
    counts = list(recall[str(OVERLAPS[0])])
    at_most = recall[str(OVERLAPS[0])][counts[-1]]
    if at_most is not None and at_most < ENOUGH:
        warn(
            f"only {_share(at_most)} of the objects have a proposal with an IoU of {OVERLAPS[0]}: the others can hardly be "
            "learned or found; raise config.data.max_proposals, config.data.proposals.count or "
            "config.data.proposals.longest, lower config.data.proposals.min_side, or choose config.data.proposals.mode=quality"
        )


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
