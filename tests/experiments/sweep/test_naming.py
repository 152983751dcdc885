"""Names that people can read and that file systems, shells and Orbax accept."""

import re

import pytest

from experiments.sweep.definition import Run
from experiments.sweep.naming import LONGEST, label, shorten, write_value


def labels(*runs: dict, config: str = "configs/a.py") -> list[str]:
    return label([Run(run.pop("config", config), run, run.pop("name", "")) for run in map(dict, runs)])


def test_a_label_contains_the_fields_that_differ():
    assert labels(*({"optim.lr": lr, "seed.init": s, "train.steps": 9} for lr in (1e-3, 1e-5) for s in (0, 1))) == [
        "lr=0.001,seed=0", "lr=0.001,seed=1", "lr=1e-5,seed=0", "lr=1e-5,seed=1"
    ]  # fmt: skip


def test_a_label_leaves_out_fields_that_the_run_does_not_set():
    assert labels({"optim.lr": 0.1}, {"optim.lr": 0.1, "optim.ema": 0.9}, {}) == ["lr=0.1", "lr=0.1,ema=0.9", "a"]


def test_the_label_of_a_single_run_contains_all_its_fields():
    assert labels({"optim.lr": 3.0}) == ["lr=3"] and labels({}, config="configs/a.py:debug") == ["a-debug"]


def test_a_name_replaces_the_fields():
    assert labels({"name": "rcnn", "optim.lr": 1}, {"name": "fast", "optim.lr": 2}) == ["rcnn", "fast"]
    runs = [{"name": name, "optim.lr": lr, "seed.init": seed} for name, lr in (("a", 1), ("b", 2)) for seed in (0, 1)]
    assert labels(*runs) == ["a,seed=0", "a,seed=1", "b,seed=0", "b,seed=1"]


def test_labels_of_several_configs_contain_the_config():
    assert labels({"config": "configs/a.py"}, {"config": "configs/b.py:light"}) == ["a", "b-light"]


def test_labels_without_seeds_are_settings():
    runs = [Run("a.py", {"optim.lr": lr, "seed.init": seed}) for lr in (1, 2) for seed in (0, 1)]
    assert label(runs, ignore=("seed.init",)) == ["lr=1", "lr=1", "lr=2", "lr=2"]


def test_field_names_are_as_short_as_possible():
    fields = ["optim.lr", "model.backbone.name", "model.name", "data.augment.scale", "eval.scale", "seed.init"]
    assert shorten(fields) == {
        "optim.lr": "lr",
        "model.backbone.name": "backbone",
        "model.name": "model",
        "data.augment.scale": "augment.scale",
        "eval.scale": "eval.scale",
        "seed.init": "seed",
    }
    assert shorten(["seed.init", "seed.data"]) == {"seed.init": "seed", "seed.data": "seed.data"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-05, "1e-5"),
        (2.5e-10, "2.5e-10"),
        (1e22, "1e22"),
        (0.003, "0.003"),
        (2.0, "2"),
        (3, "3"),
        ((96, 128), "96x128"),
        (True, "True"),
        ("sgd", "sgd"),
        ((), "none"),
        ([["a", 0.1], ["b", 0.001]], "ax0.1xbx0.001"),
    ],
)
def test_values_are_written_as_people_write_them(value, text):
    assert write_value(value) == text


def test_characters_that_a_path_cannot_contain_are_left_out():
    odd = ["a/b", "[x]*?", "c\\d", "é ü", "~root", "$(rm)", "-x", "..", "a" * 300]
    names = labels(*({"data.folder.root": value} for value in odd), *({"name": value} for value in odd))
    assert all(re.fullmatch(r"[\w+][\w.,=+-]*", name, re.ASCII) and len(name) <= LONGEST for name in names), names
