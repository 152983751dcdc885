"""Synthetic runs with many rows, whose scores rise as in training, and with pictures."""

import json
from pathlib import Path

import numpy as np

from experiments.pictures.examples import DrawnExample, DrawnExamples, encode_webp, write_examples
from tests.experiments.compare.synthetic import make_run

SESSION = {
    "seeds": {"init": 0, "data": 0},
    "data": {"train": "0123456789abcdef", "eval": "fedcba9876543210"},
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
    "python": "3.11.7",
    "packages": {"jax": "0.10.2", "flax": "0.12.8"},
    "platform": "Linux",
    "devices": {"platform": "gpu", "kind": "A card", "count": 2, "processes": 1},
}


def write_run(
    workdir: Path,
    *,
    name: str = "unet",
    lr: float = 1e-3,
    seed: int = 0,
    steps: int = 100,
    every: int = 10,
    score: float = 0.8,
    classes: tuple[str, ...] = ("sky", "tree"),
) -> Path:
    """Write a run with a row every `every` steps, whose score rises to `score` plus noise of the seed."""
    rng = np.random.default_rng([seed, round(1e6 * lr), len(name)])
    luck = rng.normal(0, 0.01)
    fields = {"seed.init": seed, "model.name": name, "optim.lr": lr, "train.steps": steps, "train.batch_size": 16}
    make_run(workdir, fields, **SESSION)
    lines = []
    for step in range(every, steps + 1, every):
        part = step / steps
        row = {"step": step, "train/loss": 0.1 + 2 * 0.1 ** (3 * part) + abs(rng.normal(0, 0.05))}
        row |= {"train/grad_norm": 1 + rng.random(), "train/lr": lr * (1 - part)}
        row |= {"time/input_wait": 0.01, "time/images_per_second": 160.0}
        if step % max(every, steps // 20) == 0 or step == steps:
            mean = (score + luck) * (1 - 0.3 ** (4 * part)) + rng.normal(0, 0.004)
            spread = np.linspace(-0.08, 0.08, len(classes)) * score
            row |= {"val/loss": 1 - mean, "val/mIoU": mean, "time/evaluation": 2.0}
            row |= {f"val/IoU/{own}": mean + apart for own, apart in zip(classes, spread, strict=True)}
        lines.append(json.dumps(row))
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return workdir


def draw_examples(
    workdir: Path, seed: int, images: tuple[str, ...], classes: tuple[str, ...], *, objects: bool = False
) -> None:
    """Write the examples of an evaluation, blobs with slightly shifted predictions. Those of `objects` have no image tile."""
    drawn = []
    for index, name in enumerate(images):
        y, x = np.mgrid[:96, :128]
        tiles = {}
        for kind, shift in (("image", 0), ("truth", 0), ("prediction", 3 + 4 * seed)):
            inside = (y - 48) ** 2 + (x - 50 - shift - 10 * index) ** 2 < 900
            inner, outer = ((90, 140, 60), (200, 215, 230)) if kind == "image" else ((230, 159, 0), (0, 114, 178))
            tiles[kind] = encode_webp(np.where(inside[..., None], inner, outer).astype(np.uint8))
        if objects:
            del tiles["image"]
        drawn.append(DrawnExample(index, name, tiles))
    write_examples(workdir / "predictions" / "val-examples.zip", DrawnExamples(classes, drawn))
