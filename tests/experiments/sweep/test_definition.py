"""The values that sweep() may return, and the errors for invalid ones."""

import pytest

from errors import UserError
from experiments.sweep import definition


@pytest.fixture
def define(tmp_path):
    def load(returned: str, config: str = "", **overrides):
        path = tmp_path / "own.py"
        path.write_text(f"import numpy as np\nfrom configs import sweeps\n\ndef sweep():\n    return {returned}\n")
        return definition.load(f"{path}{config}", {name.replace("__", "."): value for name, value in overrides.items()})

    return load


def test_a_run_has_a_config_fields_and_a_name(define, tmp_path):
    first, second = define('[{"optim.lr": 1, "name": "a"}, {"config": "configs/fcos_shapes.py"}]')
    assert first == definition.Run(str(tmp_path / "own.py"), {"optim.lr": 1}, "a")
    assert second.config == "configs/fcos_shapes.py" and second.fields == {}


def test_the_variant_applies_to_runs_without_one(define, tmp_path):
    runs = define('[{}, {"config": "a.py"}, {"config": "b.py:light"}]', ":debug")
    assert [run.config for run in runs] == [f"{tmp_path / 'own.py'}:debug", "a.py:debug", "b.py:light"]


def test_the_command_line_sets_a_field_for_all_runs(define):
    runs = define('[{"optim.lr": 1, "seed.init": n} for n in range(2)]', optim__lr="0.5")
    assert [run.fields for run in runs] == [{"seed.init": 0}, {"seed.init": 1}]


def test_numpy_values_become_python_values(define):
    (run,) = define('[{"optim.lr": np.float64(0.5), "data.image_size": (np.int64(3), 4)}]')
    assert run.fields == {"optim.lr": 0.5, "data.image_size": [3, 4]} and type(run.fields["optim.lr"]) is float


def test_a_run_comes_after_the_one_that_it_starts_from(define):
    runs = define(
        """[{"name": "c", "init_from": sweeps.run("b")}, {"name": "b", "init_from": sweeps.run("a")},
            {"name": "a"}, {"name": "d", "init_from": "runs/other"}]"""
    )
    assert [(run.name, run.start) for run in runs] == [("a", None), ("b", 0), ("c", 1), ("d", None)]
    assert "init_from" not in runs[1].fields and runs[3].fields["init_from"] == "runs/other"


def test_each_run_starts_from_the_run_with_its_seed(define):
    runs = define('sweeps.product([{"name": "a"}, {"name": "b", "init_from": sweeps.run("a")}], sweeps.seeds(3))')
    assert [(run.name, run.fields["seed.init"], run.start) for run in runs[3:]] == [
        ("b", 0, 0), ("b", 1, 1), ("b", 2, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("[]", ["sweep()", "at least one"]),
        ("None", ["sweep()", "None"]),
        ('[{}, "lr"]', ["run 2", "'lr'"]),
        ('[{"name": 3}]', ["run 1", "name=3"]),
        ('[{"model.backbone": {"name": "vgg"}}]', ["run 1", "model.backbone.name"]),
        ('[{"optim.lr": sweeps.run("a")}]', ["optim.lr", "init_from"]),
        ('[{"name": "b", "init_from": sweeps.run("c")}, {"name": "a"}]', ["run b", "'c'", "a, b"]),
        ('[{"init_from": sweeps.run("a"), "name": "b"}, {"init_from": sweeps.run("b"), "name": "a"}]', ["each other"]),
        ('[{"init_from": sweeps.run("a"), "name": "a"}]', ["each other"]),
        (
            'sweeps.product([{"name": "a"}], sweeps.seeds(2)) + [{"name": "b", "init_from": sweeps.run("a")}]',
            ["run b", "0 of the 2", "seed.init"],
        ),
        ("[1 / 0]", ["ZeroDivisionError", "line 5"]),
        ("sweeps.grid({'optim.lr': 3})", ["optim.lr", "own.py"]),
    ],
)
def test_invalid_sweep_raises_a_one_line_error_with_file_and_run(define, returned, words):
    with pytest.raises(UserError) as caught:
        define(returned)
    assert "own.py" in str(caught.value) and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_file_without_a_sweep_is_refused(tmp_path):
    (tmp_path / "own.py").write_text("")
    with pytest.raises(UserError, match="no function sweep.*docs/sweeps.md"):
        definition.load(str(tmp_path / "own.py"), {})
    with pytest.raises(UserError, match="does not exist"):
        definition.load(str(tmp_path / "none.py"), {})
    (tmp_path / "own.txt").write_text("")
    with pytest.raises(UserError, match="not a Python file.*ends in .py"):
        definition.load(str(tmp_path / "own.txt"), {})
