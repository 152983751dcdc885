"""Readers of a run directory, which succeed or report one line for any content of its files."""

import pathlib
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from experiments.compare.__main__ import main as compare
from experiments.run import card, config_file, dashboard, follower
from experiments.run.metrics_file import MetricsFile, read_row
from experiments.run.sessions import read_sessions
from experiments.sweep.state import read_state
from experiments.sweep.summary import describe
from tests.experiments.compare.synthetic import label_records, make_run
from tests.experiments.metrics.test_resample import box_parts
from tests.mutations import damage, succeeds_or_says_why

FILES = ("config.json", "metrics.jsonl", "evidence.json", "records/val.jsonl")
OTHERS = {"wandb/cursor.json": b'{"step": 10, "file": null, "before": 0}', "wandb_id": b"0123456789abcdef\n"}


@pytest.fixture(scope="module", params=["labels", "boxes"])
def runs(request, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp(f"damaged_{request.param}")
    for name in ("a", "b"):
        records = label_records(np.linspace(0.3, 0.8, 12)) if request.param == "labels" else box_records()
        scores = [{"mIoU": 0.4, "accuracy": None}, {"mIoU": 0.5, "accuracy": 0.25}]
        fields = {
            "optim.lr": 0.1 if name == "a" else 0.2,
            "init_from": str(folder / "tried" / ("b" if name == "a" else "a")),
        }
        fields |= {"eval.metrics": ["coco"]} if request.param == "boxes" else {}
        place = make_run(folder / "whole" / name, fields, scores, records)
        for file, content in OTHERS.items():
            (place / file).parent.mkdir(exist_ok=True)
            (place / file).write_bytes(content)
    return folder


def box_records() -> list[dict]:
    parts = box_parts(np.random.default_rng(0), 12, 2)
    return [{"image_id": i, "name": str(i), "source_id": i, "average_precision": part} for i, part in enumerate(parts)]


def read_everything(folder: pathlib.Path) -> None:
    """Run all readers of a run that need no model, from comparison and sweep to resume and W&B."""
    run, page = folder / "a", folder.parent / "page.html"
    for flags in (["--csv"], [f"--html={page}"], ["--rows=optim.lr"]):
        try:
            assert compare([str(folder / "a"), str(folder / "b"), "--draws=100", *flags]) == 0
        except SystemExit as end:
            assert str(end).startswith("error: ") and str(end).isprintable()
    succeeds_or_says_why(lambda: describe_state(run))
    succeeds_or_says_why(lambda: read_sessions(run / "evidence.json"))
    succeeds_or_says_why(lambda: card._describe_data(run, CONFIG))
    succeeds_or_says_why(lambda: config_file.read_config(run))
    succeeds_or_says_why(lambda: read_row(run / "metrics.jsonl", 10))
    metrics = succeeds_or_says_why(lambda: MetricsFile(run / "metrics.jsonl"))
    rows = succeeds_or_says_why(lambda: list(metrics.rows()))
    succeeds_or_says_why(lambda: metrics.cut(10))
    metrics.close()
    sent = succeeds_or_says_why(lambda: next(follower._new_rows(run / "metrics.jsonl")))
    assert rows is None or sent is not None
    noted = dashboard._read_cursor(run, run / "wandb" / "cursor.json")
    assert type(dashboard._sent_before(run, noted)) is int


CONFIG = ConfigDict({"data": {"name": "shapes", "train_split": "train", "eval_split": "val"}})


def describe_state(run: pathlib.Path) -> tuple:
    state = read_state(run)
    progress = type(
        "P", (), {"state": state, "job": type("J", (), {"label": "a"}), "phase": type("H", (), {"value": "done"})}
    )
    return describe(progress), state.done, state.kept, state.scores, state.seconds


def check(runs: pathlib.Path, name: str, content: bytes) -> None:
    shutil.rmtree(runs / "tried", ignore_errors=True)
    shutil.copytree(runs / "whole", runs / "tried")
    (runs / "tried" / "a" / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_everything(runs / "tried")


@st.composite
def damages(draw, whole: pathlib.Path) -> tuple[str, bytes]:
    name = draw(st.sampled_from([*FILES, *OTHERS]))
    return name, draw(damage((whole / "a" / name).read_bytes()))


def fuzz(runs: pathlib.Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(damages(runs / "whole"))
    def try_one(drawn):
        check(runs, *drawn)

    try_one()


def test_damaged_files_are_read_or_reported(runs):
    fuzz(runs, 20)


@pytest.mark.slow
def test_many_damaged_files_are_read_or_reported(runs):
    fuzz(runs, 1500)
