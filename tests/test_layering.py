"""Who may import whom, read from the sources."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
OURS = {"configs", "models", "input_pipeline", "experiments", "benchmarks", "main"}
DATA = {"numpy", "cv2", "PIL", "tensorflow_datasets", "grain", "faster_coco_eval", "ml_collections", "input_pipeline"}
RUN = {"jax", "flax", "optax", "numpy", "ml_collections", "tqdm", "models", "input_pipeline", "experiments"}

# The longest prefix of a module's name decides.
ALLOWED = {
    "configs": {"ml_collections", "configs.common"},
    "models.ops": {"jax", "numpy", "models.ops"},
    "models": {"flax", "jax", "numpy", "models"},
    "input_pipeline": DATA,
    "input_pipeline.annotations.yolo_text": DATA | {"yaml"},
    "experiments.metrics": {
        *("numpy", "cv2", "faster_coco_eval", "input_pipeline.batch", "input_pipeline.annotations"),
        *("experiments.metrics", "experiments.pictures", "experiments.box_pictures", "experiments.errors"),
    },
    "experiments.tasks": {
        *("jax", "flax", "optax", "numpy", "cv2", "ml_collections", "models", "input_pipeline.batch"),
        *("experiments.tasks", "experiments.metrics", "experiments.pictures", "experiments.box_pictures"),
        *("experiments.run.follower", "experiments.errors"),
    },
    "experiments.run.state": {
        "jax",
        "flax",
        "optax",
        "ml_collections",
        "models",
        "experiments.run.optim",
        "experiments.errors",
    },
    "experiments.run.optim": {"jax", "optax", "ml_collections", "experiments.errors"},
    "experiments.datacheck": {
        *("flax", "numpy", "ml_collections", "input_pipeline"),
        *("experiments.run.state", "experiments.tasks", "experiments.run.follower", "experiments.errors"),
    },
    "experiments.run.sharding": {"jax", "numpy", "experiments.errors"},
    "experiments.run.pretrained": {
        *("flax", "numpy", "safetensors"),
        *("ml_collections", "experiments.run.directory"),
        *("experiments.run.checkpoints", "experiments.run.state", "experiments.errors"),
    },
    "experiments.run.checkpoints": {"absl", "jax", "numpy", "orbax", "experiments.errors"},
    "experiments.run.follower": {"wandb", "experiments.errors"},
    "experiments.run.directory": {"ml_collections", "experiments.run.follower", "experiments.errors"},
    "experiments.pictures": {
        "numpy",
        "cv2",
        "PIL",
        "input_pipeline.batch",
        "experiments.run.follower",
        "experiments.errors",
    },
    "experiments.box_pictures": {"numpy", "PIL", "experiments.pictures"},
    "experiments.run.progress": {"tqdm"},
    "experiments.run.preemption": set(),
    "experiments.errors": set(),
    "experiments.run.step": {"jax", "optax", "flax", "ml_collections", "experiments.run.state", "experiments.tasks"},
    "experiments.run.evidence": {"jax", "experiments.run.follower", "experiments.errors"},
    "experiments": RUN,
    "benchmarks": RUN | {"absl", "torch", "benchmarks"},
    "main": {"absl", "ml_collections", "experiments", "input_pipeline.batch", "models.registry"},
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0].removesuffix(".py") in OURS)


def module_name(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from experiments import optim` names a module, `from experiments.run.optim import match` a thing in one.
            for alias in node.names:
                is_module = (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_respect_the_layers(path):
    rule = max((prefix for prefix in ALLOWED if below(module_name(path), prefix)), key=len)
    foreign = {name for name in imports(path) if not any(below(name, prefix) for prefix in ALLOWED[rule])}
    assert not foreign, f"{module_name(path)} may import {sorted(ALLOWED[rule])} only"


@pytest.mark.parametrize(
    ("package", "home"), [("orbax", "experiments.run.checkpoints"), ("wandb", "experiments.run.follower")]
)
def test_a_package_with_one_home_stays_there(package, home):
    users = {module_name(path) for path in FILES if any(below(name, package) for name in imports(path))}
    assert users == {home}
