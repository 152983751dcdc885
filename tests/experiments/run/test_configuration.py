"""The check of a whole config, and the completion of an older config."""

import importlib
import math
import pathlib

import pytest
from ml_collections import ConfigDict

import fields
from configs import common, detectors, segmenters
from configs.common import Common
from errors import UserError
from experiments.run import configuration
from experiments.tasks.registry import TASK, TASKS
from models.registry import BACKBONE, BACKBONES, MODEL, MODELS

SECTIONS = ("model", "task")
PATH = pathlib.Path("run/config.json")


def make() -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet(config, depth=2, width=4, padding="same", norm="batch")
    return config


def refuse(config: ConfigDict) -> str:
    """Return the one-line error that refuses a config."""
    with pytest.raises(UserError) as caught:
        configuration.check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leaves(section: type, prefix: str = "") -> dict[str, object]:
    """Return the rule of each field of a section by its path, without subsections."""
    found = {}
    for name, (rule, _) in fields.fields_of(section).items():
        if isinstance(rule, type) and rule.__module__ != "builtins":
            found |= leaves(rule, f"{prefix}{name}.")
        else:
            found[prefix + name] = rule
    return found


def put(config: ConfigDict, path: str, value) -> None:
    *sections, field = path.split(".")
    for section in sections:
        config = config[section]
    with config.ignore_type():
        config[field] = value


@pytest.mark.parametrize("path", leaves(Common))
def test_a_wrong_type_is_refused_in_every_field(path):
    config = make()
    configuration.check(config)
    for value in (None, object, {"a": 1}, "?" if leaves(Common)[path] is not str else 0):
        put(config, path, value)
        assert refuse(config).startswith(f"config.{path}")


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        ("optim.clip", -1.0, "0 or more"),
        ("optim.ema", math.nan, "a number"),
        ("optim.ema", 1.0, "below 1"),
        ("optim.name", "adamax", "'adamw' or 'sgd'"),
        ("optim.schedule", "cosin", "did you mean 'cosine'?"),
        ("optim.betas", (0.9,), "2 values"),
        ("optim.lr_multipliers", ("encoder/", 0.1), "2 values: text; a number, 0 or more"),
        ("optim.partition", (("head/", ("lr", 0.1)),), "2 values: text; a tuple"),
        (
            "optim.partition",
            (("head/", (("lr", -1.0),)),),
            "lr=-1.0 is out of its range; it must be a number, 0 or more",
        ),
        ("optim.partition", (("head/", (("betas", (0.9,)),)),), "2 values"),
        ("mesh", (1, -1), "3 values"),
        ("mesh", (1, 0, 1), "-1 or a whole number, 1 or more"),
        ("seed.init", 2**40, "4294967295 at most"),
        ("seed.init", 2**32, "4294967295 at most"),
        ("seed.data", -1, "0 or more"),
        ("train.steps", -1, "0 or more"),
        ("train.batch_size", 1.5, "a whole number"),
        ("train.batch_size", 0, "1 or more"),
        ("train.keep", 0, "1 or more"),
        ("eval.method", "tile", "'whole' or 'window' or 'canvas'"),
        ("eval.overlap", 1.0, "below 1"),
        ("eval.scales", (0.0,), "above 0"),
        ("data.max_boxes", 0, "1 or more"),
        ("data.num_threads", 0, "1 or more"),
        ("data.image_size", (96,), "2 values"),
        ("data.image_size", 96, "2 values"),
        ("data.canvases", (96, 96), "2 values"),
        ("data.margin", -1, "0 or more"),
        ("data.fit", "strech", "did you mean 'stretch'?"),
        ("data.border", "wrap", "'mean' or 'mirror'"),
        ("data.weight_map", (10.0, 0.0), "above 0"),
        ("data.std", (0.0, 1.0, 1.0), "above 0"),
        ("data.folder.first_pixel", 2, "0 or 1"),
        ("data.folder.instances", "ids", "'' or 'folder' or 'components'"),
        ("data.folder.ignore_value", 256, "255 at most"),
        ("data.augment.flip", 1.5, "1 at most"),
        ("data.augment.scale", (0.0, 1.0), "above 0"),
        ("data.augment.aspect", 0.5, "1 or more"),
        ("data.augment.translate", 1.0, "below 1"),
        ("data.augment.rotation", 181.0, "180 at most"),
        ("data.augment.elastic", (-1.0, 8.0), "0 or more"),
        ("data.augment.elastic", (1.0, 0.0), "above 0"),
        ("data.augment.zoom_out", (0.5,), "2 values"),
        ("data.augment.zoom_out", (0.5, 0.5), "1 or more"),
        ("data.augment.min_visible", -0.1, "0 or more"),
        ("data.augment.mosaic", 2.0, "1 at most"),
        ("data.augment.brightness", -0.1, "0 or more"),
        ("data.augment.hue", 0.6, "0.5 at most"),
        ("task.class_weights", (1.0, -2.0), "0 or more"),
        ("task.class_weights", (1.0, math.nan), "a number"),
        ("wandb.mode", "onlin", "did you mean 'online'? it must be 'auto' or 'online'"),
        ("model.depth", 0, "1 or more"),
        ("model.padding", "full", "'valid' or 'same'"),
    ],
)
def test_a_value_out_of_range_is_reported_in_one_line(path, value, wanted):
    config = make()
    put(config, path, value)
    line = refuse(config)
    assert line.startswith(f"config.{path}") and wanted in line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("match_iou", 0.0),
        ("negatives_per_positive", -1.0),
        ("localisation_weight", -1.0),
        ("score_threshold", 1.5),
        ("nms_iou", -0.1),
        ("nms_candidates", 0),
        ("max_detections", 0),
    ],
)
def test_a_detector_field_out_of_range_is_reported_in_one_line(field, value):
    config = common.get_config()
    detectors.use_light_ssd(config)
    configuration.check(config)
    config.task[field] = value
    assert f"config.task.{field}={value} is out of its range" in refuse(config)


def test_a_task_accepts_only_its_own_fields():
    config = common.get_config()
    detectors.use_light_yolov1(config)
    config.task.lambda_cord = 1.0
    assert "config.task.lambda_cord is not a field of yolov1; did you mean 'lambda_coord'?" in refuse(config)
    config.task.name = "yolov2"
    assert "config.task.name: unknown task 'yolov2'; did you mean 'yolov1'? known: " in refuse(config)
    assert "config.model.name is missing; choose one of deeplabv3plus, fast_rcnn" in refuse(common.get_config())


def test_a_backbone_is_checked_too():
    config = common.get_config()
    segmenters.use_deeplabv3plus(config)
    config.model.backbone.layers = 51
    assert refuse(config) == "config.model.backbone.layers=51 is not valid; it must be 10 or 18 or 34 or 50 or 101"


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_all_bits_of_a_seed_are_used(seed):
    import grain
    import jax
    from flax import nnx

    config = make()
    config.seed.init = config.seed.data = seed
    configuration.check(config)
    assert jax.random.key_data(jax.random.key(seed)).tolist() == [0, seed]
    assert (
        jax.random.key_data(nnx.Rngs(seed).params()).tolist()
        == jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 0)).tolist()
    )
    orders = [list(grain.MapDataset.range(50).seed(other).shuffle()) for other in (seed, seed ^ 1, seed ^ 2**31)]
    assert orders[0] != orders[1] and orders[0] != orders[2]


def every_rule() -> dict[str, object]:
    rules = leaves(Common)
    for kind, rule, known in (("model", MODEL, MODELS), ("backbone", BACKBONE, BACKBONES), ("task", TASK, TASKS)):
        for name in known:
            rules |= {f"{kind} {name}.{field}": own for field, (own, _) in fields.fields_of(rule, name).items()}
    return rules


@pytest.mark.parametrize("path", every_rule())
def test_every_field_has_a_rule(path):
    rule = every_rule()[path]
    assert rule is not fields.MISSING, f"{path} has no annotation"
    if fields.find_named(rule) is None and not (isinstance(rule, type) and rule.__module__ != "builtins"):
        assert fields.describe(rule)  # a KeyError for an annotation that is not a rule


@pytest.mark.parametrize("section", [Common, *(value for value in vars(common).values() if isinstance(value, type))])
def test_a_default_follows_its_rule(section):
    if section.__module__ == common.__name__:
        fields.check("config", fields.defaults(section), section)


def test_an_older_config_is_completed():
    config = importlib.import_module("configs.fcn8s_camvid").get_config("light")
    stored = config.to_dict()
    del stored["eval"]["method"], stored["data"]["augment"]["hue"], stored["seed"], stored["task"]["losses"]["focal"]
    completed = configuration.complete(stored, PATH)
    assert completed.eval.method == "whole" and completed.data.augment.hue == 0.0 and completed.seed.init == 0
    assert completed.task.losses.focal.to_dict() == {"factor": 0.0, "gamma": 2.0}
    configuration.check(completed)
    assert completed.data.augment.scale == config.data.augment.scale
    assert configuration.complete(config.to_dict(), PATH) == config


def test_a_config_of_another_version_is_refused_in_one_line():
    stored = make().to_dict() | {"seed": 0}
    stored["optim"]["rates"] = ()
    stored["task"]["ohem"] = (0.7, 0.25)
    with pytest.raises(UserError) as caught:
        configuration.complete(stored, PATH)
    assert "\n" not in str(caught.value)
    for part in (
        "run/config.json",
        "another version",
        "seed, ",
        "optim.rates",
        "task.ohem",
        "evidence.json",
        "config.init_from",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("stored", [[1], {"model": 5, "task": {}}, {"seed": {}}, "text"])
def test_a_file_that_is_not_a_config_is_refused_in_one_line(stored):
    with pytest.raises(UserError, match=r"run/config\.json does not contain the config of a run"):
        configuration.complete(stored, PATH)


def test_a_part_of_the_optimiser_accepts_only_its_own_fields():
    config = make()
    config.optim.partition = (("head/", (("lr", 0.1), ("betas", (0.5, 0.9)))),)
    configuration.check(config)
    config.optim.partition = (("head/", (("momentm", 0.1),)),)
    assert "'head/': momentm is not a field of a part; did you mean 'momentum'?" in refuse(config)
    config.optim.partition = (("head/", (("ema", 0.1),)),)
    assert "ema is not a field of a part" in refuse(config)


def test_a_task_for_another_model_is_refused_by_its_name():
    """The name is checked before the fields, which are all unknown for another model."""
    config = make()
    config.task.name = "ssd"
    reason = "config.task.name='ssd' reads default boxes, and config.model.name='unet' produces pixel logits"
    assert reason in refuse(config)
