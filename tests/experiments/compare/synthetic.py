"""Synthetic run directories with chosen scores and records."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

CLASSES = ("circle", "square")


def make_run(
    workdir: pathlib.Path,
    fields: Mapping = {},
    scores: Sequence[Mapping[str, float | None]] = ({"mIoU": 0.5},),
    records: Sequence[Mapping] = (),
    **session,
) -> pathlib.Path:
    """Write a segmentation run with config `fields`, a row with `scores` every 10 steps, and `records`."""
    config = {"seed.init": 0, "seed.data": 0, "model.name": "unet", "data.name": "shapes", "optim.lr": 0.001}
    config |= {"train.best": "val/mIoU", "train.steps": 10 * len(scores), "train.batch_size": 4, "members": 1}
    config |= {"init_from": "", "eval.metrics": ["confusion"], "eval.scored_detections": 100, "wandb.mode": "disabled"}
    write(workdir / "config.json", json.dumps(nest(config | dict(fields))))
    lines = []
    for index, own in enumerate(scores, start=1):
        row = {"step": 10 * index, "train/loss": 1 / index, "time/images_per_second": 20.0}
        row |= {f"val/{name}": value for name, value in own.items()} | {f"val/IoU/{name}": 0.5 for name in CLASSES}
        lines.append(json.dumps(row))
    write(workdir / "metrics.jsonl", "".join(f"{line}\n" for line in lines))
    own = {"started": "2026-01-01T10:00:00+00:00", "updated": "2026-01-01T12:00:00+00:00", "images_per_second": 20.0}
    own |= {"devices": {"platform": "gpu", "kind": "a GPU", "count": 4}, "flops_per_step": 1e12, "last_step": 10}
    own |= {"git": {"commit": "0" * 40, "dirty": False}, "data": {"train": "aa", "eval": "bb"}, "parameters": 1000}
    write(workdir / "evidence.json", json.dumps({"sessions": [own | session]}))
    if records:
        write(workdir / "records/val.jsonl", "".join(f"{json.dumps(row)}\n" for row in records))
    return workdir


def label_records(right: np.ndarray, pixels: int = 10**6, names: Sequence[str] = ()) -> list[dict]:
    """Return records of images whose `pixels` have class 0. The share right[i] is predicted as 0, the rest as 1."""
    hits = np.round(np.clip(right, 0, 1) * pixels).astype(int).tolist()
    names = names or [f"image{index}" for index in range(len(hits))]
    return [
        {"image_id": index, "name": name, "source_id": index, "confusion": [[0, 0, hit], [0, 1, pixels - hit]]}
        for index, (hit, name) in enumerate(zip(hits, names, strict=True))
    ]


def nest(flat: Mapping) -> dict:
    nested: dict = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nested


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
