"""Tests of every config's fields and rules, of its model, and of training steps."""

import ast
import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import common, datasets, detectors
from experiments.command_line import read_experiment
from experiments.run import configuration, sharding
from experiments.run import state as states
from experiments.run.costs import specify_batch
from experiments.run.optim import make_optimizer
from experiments.run.step import compile_step, make_train_step, recompute
from experiments.sweep import definition
from experiments.tasks.base import total_loss
from experiments.tasks.registry import make_task
from input_pipeline.augment import geometry
from input_pipeline.views import plan_views
from tests.sources import ROOT, parse

PARTS = ("__init__", "common", "datasets", "segmenters", "detectors", "schedules", "sweeps", "variants")
PARTS += ("detection_history",)  # a sweep over other files
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in PARTS)
CLASSES = ("a", "b", "c")


def load(name: str, variant: str = ""):
    return importlib.import_module(f"configs.{name}").get_config(variant)


def list_variants(name: str) -> list[str]:
    with pytest.raises(ValueError, match="no variant 'tiny'") as caught:
        load(name, "tiny")
    return re.findall(r"FILE\.py:(\w+)", str(caught.value))


def paths(config) -> set[str]:
    sections = {name: values for name, values in config.items() if hasattr(values, "keys")}
    own = {f"{name}.{path}" for name, values in sections.items() for path in paths(values)}
    return set(config) - set(sections) | own


@pytest.mark.parametrize("name", NAMES)
def test_variants_follow_the_rules_and_add_fields_to_model_and_task_only(name):
    for variant in ("", *list_variants(name)):
        config = load(name, variant)
        configuration.check(config)
        others = {path for path in paths(config) if path.split(".")[0] not in ("model", "task")}
        assert others == paths(common.get_config()), variant


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_its_header_and_a_few_lines(name):
    """Code that experiments share belongs in the functions of their families."""
    body = parse(ROOT / "configs" / f"{name}.py").body
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    assert {"get_config"} <= functions.keys() <= {"get_config", "sweep", "search"}
    lengths = {own: (node.end_lineno or 0) - node.lineno for own, node in functions.items()}
    assert max(lengths.values()) <= 12 and lengths["get_config"] >= 4


@pytest.mark.parametrize("name", ["detection_history", "segmentation_history"])
def test_a_history_has_one_budget_and_one_size_of_images(name):
    """The header names the exceptions, which are R-CNN's half budget and YOLO's grid."""
    runs, images, sizes, trunks = definition.load(str(ROOT / "configs" / f"{name}.py"), {}), {}, {}, {}
    for run in runs:
        fields = [f"--config.{field}={value}" for field, value in run.fields.items()]
        config = read_experiment(str(ROOT / run.config), fields)
        configuration.check(config)
        assert states.describe(config, len(CLASSES))[2], "it builds"
        images[run.name] = config.train.steps * config.train.batch_size
        sizes[run.name] = tuple(config.data.image_size)
        backbone = config.model.backbone if "backbone" in config.model else None
        trunks[run.name] = backbone and {**backbone.get("bottom_up", backbone), "output_stride": 0}
    half, (image_count,) = images.pop("rcnn", None), set(images.values())
    assert half in (None, image_count / 2)
    assert {name: size for name, size in sizes.items() if size != (96, 96)} in ({}, {"yolov1": (112, 112)})
    assert len(images) + bool(half) == len(runs) == {"detection_history": 10, "segmentation_history": 5}[name]
    assert len({str(sorted(trunk.items())) for trunk in trunks.values() if trunk}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_variant_is_an_error_that_names_the_known_ones(name):
    assert "debug" in list_variants(name)


def test_pix2pix_trains_its_generator_alone():
    config = load("pix2pix_camvid", "generator")
    _, shapes, _ = states.describe(config, len(CLASSES))
    assert config.task.name == "segmentation" and not any("discriminator" in name for name in shapes)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_and_its_training_state_build(name):
    config = load(name)

    _, shapes, trained = states.describe(config, len(CLASSES))
    optimizer = make_optimizer(config.optim, config.train.steps, trained)
    state = jax.eval_shape(lambda variables: states.create(variables, trained, optimizer, variables), shapes)
    assert sum(value.size for value in state.params.values()) > 10_000


@pytest.mark.parametrize(
    "name",
    [
        "unet_pets",
        "faster_rcnn_shapes",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("fcn8s_voc", "deeplabv3plus_camvid", "unet_isbi", "unet_resnet34_camvid", "pix2pix_camvid"),
                *("ssd300_voc", "retinanet_coco", "fcos_coco", "yolov1_voc", "mask_rcnn_shapes", "fast_rcnn_shapes"),
                "unet_efficientnet_camvid",
            )
        ),
    ],
)
def test_remat_keeps_fewer_activations(name):
    """Each model marks the activations to keep. With no marks, or with all marked, remat would be useless."""
    config = load(name, "debug")
    if name != "yolov1_voc":  # its grid is fully connected
        config.data.image_size = (96, 96)
    task = make_task(config, CLASSES)
    architecture, shapes, _ = states.describe(config, len(CLASSES))
    batch = specify_batch(config, task, config.data.image_size, 4, train=True)

    def measure(wrap) -> float:
        """Return the megabytes that the backward pass gets in addition to the variables."""

        def loss(variables, batch, key):
            outputs = task.apply(architecture.merge(variables), batch, train=True, rngs=nnx.Rngs(key))
            return total_loss(task.loss(outputs, batch)[0])

        def residuals(variables, batch, key):
            return jax.vjp(lambda variables: wrap(loss)(variables, batch, key), variables)[1]

        kept = jax.eval_shape(residuals, shapes, batch, jax.random.key(0))
        kept = [leaf for leaf in jax.tree.leaves(kept) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
        given = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((shapes, batch)))
        return (sum(leaf.size * leaf.dtype.itemsize for leaf in kept) - given) / 1e6

    plain, again = measure(lambda run: run), measure(recompute)
    assert 0 < again < 0.5 * plain, (again, plain)


def test_training_and_evaluation_enlarge_nuclei_twice():
    config = common.get_config()
    detectors.use_light_faster_rcnn(config)
    datasets.use_nuclei(config)
    data, rng = config.data, np.random.default_rng(0)
    for size in ((256, 256), (256, 320), (360, 360), (520, 696), (1024, 1024)):  # sizes in the challenge
        views = plan_views(size, data, config.eval)
        assert len(views) == 1 or size == (1024, 1024), size
        assert {float(view.matrix[axis, axis]) for view in views for axis in (0, 1)} == {2.0}
        drawn = [geometry.draw_map(rng, size, tuple(data.image_size), data)[:2, :2] for _ in range(200)]
        assert np.exp(np.mean([np.log(abs(np.linalg.det(matrix))) for matrix in drawn]) / 2) == pytest.approx(
            2, rel=0.05
        )
        assert {tuple(np.sign(np.diag(matrix))) for matrix in drawn} == {(1, 1), (1, -1), (-1, 1), (-1, -1)}, "mirrored"


@pytest.mark.slow
def test_a_debug_step_lowers_the_loss():
    """One config stands for its family, as the others differ only in sizes."""
    config = load("unet_pets", "debug")
    config.train.steps, config.optim.warmup_steps, config.optim.lr = 30, 0, 3e-3
    task, mesh = make_task(config, CLASSES), sharding.make_mesh(config.mesh)
    architecture, _, trained = states.describe(config, len(CLASSES))
    variables = states.initialise(config, len(CLASSES), config.seed.init)
    optimizer = make_optimizer(config.optim, config.train.steps, trained)
    state = states.create(variables, trained, optimizer, {})
    state = jax.device_put(state, sharding.tree_shardings(state, mesh))
    rng = np.random.default_rng(0)
    label = np.repeat(np.repeat(rng.integers(0, 3, (4, 4, 4)), 16, 1), 16, 2).astype(np.uint8)
    image = (label[..., None] * 100 + rng.integers(0, 50, (4, 64, 64, 3))).astype(np.uint8)
    batch = sharding.put_batch({"image": image, "label": label, "example_mask": np.ones(4, bool)}, mesh)
    key = jax.random.key(config.seed.init)
    step = compile_step(make_train_step(config, task, architecture, optimizer), state, batch, key)
    losses = []
    for _ in range(30):
        state, logs = step(state, batch, key)
        losses.append(float(logs["loss"]))
    assert losses[-1] < 0.5 * losses[0], losses
