"""The rows of the first screen for a segmenter and for a detector, and the line about the compiled steps."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.command_line import read_experiment
from experiments.run import screen
from experiments.run.screen import describe_compiled, describe_run, format_bytes

REPORT = {"objects": 1478, "objects_per_image": {"mean": 2.46, "most": 4}, "matchable": 0.9567}


class Split:
    def __init__(self, count: int, class_names=("background", "[red]circle")):
        self.count, self.class_names = count, class_names

    def __len__(self) -> int:
        return self.count


def make_run(config, *, fresh: bool = True, first: int = 0, workdir: str = "runs/a", solves: tuple = ()):
    """Make a run with all that the screen reads, with 30 trained values and 4 others."""
    return SimpleNamespace(
        config=config,
        workdir=pathlib.Path(workdir),
        source=Split(600),
        inputs=SimpleNamespace(eval_source=Split(100)),
        task=SimpleNamespace(solves=solves),
        state=SimpleNamespace(params={"kernel": np.zeros((5, 6))}, rest={"mean": np.zeros(4)}),
        best=SimpleNamespace(name=config.train.best, smaller_is_better=config.train.best == "val/loss"),
        mesh=SimpleNamespace(size=1),
        fresh=fresh,
        first=first,
    )


def read_rows(*runs, members: str = "", report=None) -> dict[str, str]:
    return dict(describe_run(runs, runs[0].workdir, members, report))


def test_screen_describes_a_segmenter():
    rows = read_rows(make_run(read_experiment("configs/unet_shapes.py", [])))
    assert list(rows) == ["data", "model", "training", "augmentation", "evaluation", "devices", "results"]
    assert rows["data"] == (
        "shapes: 600 images to train on (train), 100 to evaluate on (validation); 2 classes: background, [red]circle"
    )
    assert rows["model"] == "unet_mobilenetv2, task segmentation: 30 trained parameters, 4 frozen values and statistics"
    assert rows["training"] == "300 steps of 16 images of 64x64 (8.0 epochs); adamw, lr 0.003, cosine"
    assert rows["evaluation"].endswith(" images of 64x64 at a time; the highest val/mIoU is the best")
    assert rows["devices"] == "1 x cpu" and rows["results"].startswith("runs/a: new; ")


def test_screen_describes_a_detector(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = ["--config.train.best=val/loss", "--config.optim.accumulate=2", "--config.data.augment.scale=(0.5,1.5)"]
    rows = read_rows(make_run(read_experiment("configs/ssd_shapes.py", flags), fresh=False, first=150), report=REPORT)
    assert rows["objects"] == (
        "1,478 to train on, 2.5 per image and 4 at most; 95.7 % of them can be matched by this model; by class: "
        "runs/a/datacheck.json"
    )
    assert rows["model"].startswith("ssd on vgg, task ssd: ") and "images of 96x96 in 2 parts (" in rows["training"]
    assert "scale 0.5 to 1.5" in rows["augmentation"] and "random crops" in rows["augmentation"]
    assert rows["evaluation"].endswith("the lowest val/loss is the best")
    assert rows["results"] == "runs/a: resumed at step 150 of 600; W&B offline"


def test_screen_describes_members_and_their_steps():
    config = read_experiment("configs/unet_shapes.py", ["--config.wandb.mode=disabled"])
    runs = [make_run(config, fresh=False, first=step, workdir=f"runs/seed={step}") for step in (100, 200)]
    rows = read_rows(*runs, members="2 members, all on 1 device, their steps in turn")
    assert rows["devices"] == "1 x cpu; 2 members, all on 1 device, their steps in turn"
    assert rows["results"].endswith(": seed=100 to seed=200, resumed at step 100, 200 of 300; no W&B")


@pytest.mark.parametrize(("solves", "words"), [(("kernel",), "solved for"), ((), "scored and saved")])
def test_screen_describes_a_run_without_steps(solves, words):
    config = read_experiment("configs/unet_shapes.py", ["--config.train.steps=0"])
    rows = read_rows(make_run(config, solves=solves))
    assert words in rows["training"] and "augmentation" not in rows


def test_augmentation_of_every_config_can_be_described():
    flags = [
        "--config.data.augment.elastic=(3.0,8.0)",
        "--config.data.augment.flip=0.0",
        "--config.data.augment.iou_crop=True",
        "--config.data.augment.crop=False",
        "--config.data.augment.zoom_out=(0.5,4.0)",
    ]
    rows = read_rows(make_run(read_experiment("configs/unet_shapes.py", flags)))
    assert rows["augmentation"] == "elastic 3.0, iou crop, zoom out 0.5"
    off = read_experiment("configs/unet_shapes.py", ["--config.data.augment.flip=0.0"])
    assert read_rows(make_run(off))["augmentation"] == "none"


class Program:
    """A compiled step with arguments of 10 MB, 8 of them reused, and temporaries of `between` MB."""

    def __init__(self, between: float | None):
        self.between = between

    def memory_analysis(self):
        sizes = {"argument": 10, "alias": 8, "output": 9, "temp": self.between, "generated_code": 0}
        return self.between and SimpleNamespace(**{f"{name}_size_in_bytes": 1e6 * size for name, size in sizes.items()})


def make_lane(training, evaluation, flops=None):
    run = make_run(read_experiment("configs/unet_shapes.py", ["--config.optim.accumulate=2"]))
    run.evaluator = SimpleNamespace(inference=SimpleNamespace(programs=evaluation))
    return SimpleNamespace(runs=[run], compiled=training, flops=flops, mesh=SimpleNamespace(size=4))


def test_line_about_compiled_steps_has_memory_and_operations(monkeypatch):
    lane = make_lane(Program(1500), [Program(20), Program(30)], flops=2e9)  # of two images
    assert describe_compiled(lane, 12.4) == (
        "compiled in 12 s: training takes 1.5 GB of memory and 1 GFLOP per image, evaluation 41 MB"
    )
    monkeypatch.setattr(screen, "find_capacity", lambda: 80e9)
    assert describe_compiled(lane, 12.4).endswith(", a device has 80.0 GB")


def test_backend_without_memory_figures_is_omitted():
    assert describe_compiled(make_lane(Program(None), [Program(None)]), 12.4) == "compiled in 12 s"


def test_bytes_have_a_unit():
    assert [format_bytes(size) for size in (1.23e6, 85.4e6, 1.25e9, 17.6e12)] == [
        "1.2 MB",
        "85 MB",
        "1.2 GB",
        "17.6 TB",
    ]
