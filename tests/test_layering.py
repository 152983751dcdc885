"""Tests that imports respect the layers and have no cycles, and that files stay short."""

import ast
import graphlib
import pathlib
import re
import sys

import pytest

from tests.sources import ROOT, list_statements

HOST = {
    "numpy",
    "cv2",
    "PIL",
    "ml_collections",
    "jaxtyping",
    "faster_coco_eval",
    "input_pipeline.batch",
    "input_pipeline.masks",
    "input_pipeline.annotations",
}
HOST |= {"experiments.results", "experiments.metrics", "experiments.pictures"}
DEVICE = {"jax", "flax", "optax", "numpy", "ml_collections", "jaxtyping"}

LEAVES = {"errors", "files", "fields", "limits", "terminal", "wording"}  # everyone may import these
RULES = {  # the longest prefix of a module's name decides
    ("errors",): {"wording"},
    ("files", "fields", "limits", "wording"): set(),
    ("terminal",): {"rich", "wording"},
    ("configs",): {"ml_collections", "configs"},
    ("models.ops",): {"jax", "jaxtyping", "numpy", "models.ops"},
    ("models",): {"flax", "jax", "jaxtyping", "numpy", "models"},
    ("input_pipeline",): {
        "numpy",
        "cv2",
        "PIL",
        "tensorflow_datasets",
        "grain",
        "ml_collections",
        "yaml",
        "input_pipeline",
    }
    | {"faster_coco_eval", "pillow_heif"},
    ("experiments.tasks",): DEVICE | {"models", "input_pipeline.batch", "experiments.tasks", "experiments.solvers"},
    ("experiments.solvers",): {"numpy", "sklearn"},
    ("experiments.results", "experiments.metrics", "experiments.pictures"): HOST,
    ("experiments.sweep",): {
        "configs",
        "experiments.arguments",
        "experiments.sweep",
        "experiments.run.child",
        "experiments.run.config_file",
        "experiments.run.metrics_file",
        "experiments.run.places",
        "experiments.run.preemption",
        "experiments.run.resolution",
        "experiments.run.sessions",
        "experiments.user_code",
    }
    | {"rich", "submitit", "yaml", "optuna", "sqlalchemy"},
    ("experiments.compare",): {
        "numpy",
        "PIL",
        "scipy",
        "wandb_workspaces",
        "experiments.arguments",
        "experiments.compare",
        "experiments.metrics",
        "experiments.pictures",
        "experiments.run.config_file",
        "experiments.run.metrics_file",
        "experiments.run.sessions",
        "experiments.run.spread",
        "experiments.sweep.naming",
        "experiments.sweep.state",
    },
    ("experiments", "benchmarks"): DEVICE
    | {"absl", "configs", "models", "input_pipeline", "experiments", "benchmarks"}
    | {"orbax", "wandb", "safetensors", "torch", "scipy", "jax2onnx", "onnxruntime"},
    ("main",): {"absl", "ml_collections", "experiments"},
}
HOMES = {  # packages that only these modules may import
    "orbax": {"experiments.run.checkpoints", "benchmarks.digests"},
    "wandb": {"experiments.run.dashboard"},
    "wandb_workspaces": {"experiments.compare.report"},
    "safetensors": {"experiments.run.weights_file", "experiments.convert"},
    "scipy": {"experiments.run.spread", "experiments.compare.significance"},
    "sklearn": {"experiments.solvers"},
    "pillow_heif": {"input_pipeline.contents"},
    "jax2onnx": {"experiments.onnx"},
    "onnxruntime": {"experiments.onnx"},
    "rich": {"terminal", "experiments.sweep.table"},
    "optuna": {"experiments.sweep.study"},
    "sqlalchemy": {"experiments.sweep.study"},
    "submitit": {"experiments.sweep.slurm"},
    "torch": {"benchmarks.pytorch_twin", "experiments.convert"},
}
LONGEST = 330
LONGEST_MAIN = 90


def module_name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


TOPS = {prefix.split(".")[0] for prefixes in RULES for prefix in prefixes}
FILES = {module_name(path): path for top in sorted(TOPS) for path in [ROOT / f"{top}.py", *(ROOT / top).rglob("*.py")]}
FILES = {name: path for name, path in FILES.items() if path.exists()}


def imports(path: pathlib.Path) -> set[str]:
    """Return our modules and foreign packages that a file imports anywhere."""
    found = set()
    for node in list_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from experiments.run import optim` names a module, `from experiments.run.optim import match` an object.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


IMPORTS = {name: imports(path) for name, path in FILES.items()}


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("name", FILES)
def test_imports_respect_the_layers(name):
    prefix, allowed = max(
        (prefix, allowed) for prefixes, allowed in RULES.items() for prefix in prefixes if below(name, prefix)
    )
    allowed = allowed | (LEAVES if prefix not in ("errors", "terminal", "wording") else set())
    foreign = {other for other in IMPORTS[name] if not any(below(other, known) for known in allowed)}
    assert not foreign, f"{name} may import {sorted(allowed)} only"


def test_imports_have_no_cycles():
    graphlib.TopologicalSorter({name: IMPORTS[name] & FILES.keys() for name in FILES}).prepare()


@pytest.mark.parametrize("package", HOMES)
def test_a_package_is_imported_in_its_home_only(package):
    users = {name for name in FILES if any(below(other, package) for other in IMPORTS[name])}
    assert users <= HOMES[package]


def test_types_are_checked_in_every_folder():
    rules = re.findall(r"^(?:test-)?types:.*\n\t(.*)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    folders = {name.split(".")[0] for name in FILES} - {path.stem for path in ROOT.glob("*.py")}
    assert folders | {"tests"} <= {word for rule in rules for word in rule.split()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short(name):
    longest = LONGEST_MAIN if name == "main" else LONGEST
    assert len(FILES[name].read_text().splitlines()) <= longest
