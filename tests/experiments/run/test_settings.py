"""Random configs are checked, stored, read back and built, or refused in one line."""

import functools
import json
import math
import types
from typing import Annotated, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

import fields
from configs.common import Common
from experiments.command_line import read_experiment
from experiments.results.registry import make_results
from experiments.run import config_file
from experiments.run.configuration import NAMED, check, complete
from experiments.run.optim import make_optimizer, make_schedule
from experiments.run.state import describe
from experiments.tasks.registry import make_task
from input_pipeline.batch import list_canvases
from input_pipeline.truths import make_truth
from tests.mutations import JUNK, succeeds_or_says_why

EXPERIMENTS = ("unet_shapes", "ssd_shapes", "yolov1_shapes", "retinanet_shapes", "mask_rcnn_shapes", "fcn8s_voc")
CLASSES = ("background", "a", "b", "c")
# Values that are almost valid, in addition to junk of every type.
NEAR = st.one_of(
    st.integers(-2, 70),
    st.floats(-1, 2),
    st.sampled_from(
        [(), (1,), (1, 2), (64, 64), (0, 0), (1, -1, 1), (0.5, 0.5, 0.5), ((64, 64), (32, 32)), [1, 2], "coco"]
    ),
    st.sampled_from(
        ["adamw", "sgd", "cosine", "val/mIoU", "val/AP", "resize", "window", "batch", "confusion", "unet", "ssd"]
    ),
)


@functools.cache
def read_fields(name: str) -> dict:
    return read_experiment(f"configs/{name}.py:debug", []).to_dict()


def list_rules(values: dict, known: dict, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    """Return the rule of each field that a config may have, by its path."""
    rules = {}
    for name, (rule, _) in known.items():
        rules[*place, name] = rule
        own = values.get(name, {})
        named = fields.find_named(rule)
        if named is None and fields._is_section(rule):
            rules |= list_rules(own, fields.fields_of(rule), (*place, name))
        elif named is not None and isinstance(own, dict) and own.get("name"):
            rules[*place, name, "name"] = Literal[*named.known]
            rules |= list_rules(own, fields.fields_of(rule, own["name"]), (*place, name))
    return rules


def follow(rule: object) -> st.SearchStrategy:
    """Return a strategy of small values that follow a rule."""
    origin, arguments = get_origin(rule), get_args(rule)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of(list(map(follow, arguments)))
    if origin is tuple and arguments[-1:] == (Ellipsis,):
        return st.lists(follow(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(follow, arguments))
    limits = [limit for limit in arguments[1:] if isinstance(limit, fields.Range)] if origin is Annotated else []
    low, high = max([limit.low for limit in limits], default=-9), min([limit.high for limit in limits], default=99)
    kind = arguments[0] if origin is Annotated else rule
    if kind is int:
        return st.integers(math.ceil(max(low, -9)), math.floor(min(high, max(low, 0) + 70)))
    if kind is float:
        inside = st.floats(max(low, -9), min(high, max(low, 0) + 70))
        return inside.filter(lambda value: all(value in limit for limit in limits))
    if kind is bool:
        return st.booleans()
    return st.sampled_from(["", "a", "b/c"]) if kind is str else NEAR


def put(values: dict, place: tuple[str, ...], value: object) -> dict:
    key, *rest = place
    return values | {key: put(values[key], tuple(rest), value) if rest else value}


@st.composite
def configs(draw) -> dict:
    values = read_fields(draw(st.sampled_from(EXPERIMENTS)))
    rules = list_rules(values, fields.fields_of(Common) | {name: (rule, None) for name, rule in NAMED.items()})
    right = draw(st.booleans())
    for place in draw(st.lists(st.sampled_from(list(rules)), min_size=1, max_size=3, unique=True)):
        try:
            values = put(values, place, draw(follow(rules[place]) if right else st.one_of(NEAR, NEAR, JUNK)))
        except (KeyError, TypeError):  # a value has replaced the section of the field
            continue
    return values


def build(config: ConfigDict) -> None:
    """Build everything that a run builds before it reads data, without memory for parameters."""
    task = make_task(config, CLASSES)
    make_results(task.needs, config.eval, CLASSES).metrics()
    make_truth(task.needs, config.data)
    list_canvases(config.data)
    _, _, trained = describe(config, len(CLASSES))
    make_schedule(config.optim, config.train.steps)
    make_optimizer(config.optim, config.train.steps, trained)


def try_config(folder, values: dict, builds: bool) -> None:
    path = folder / "config.json"
    succeeds_or_says_why(lambda: complete(values, path))
    path.write_text(json.dumps(values), "utf-8")
    succeeds_or_says_why(lambda: config_file.read_config(folder))
    try:
        config = ConfigDict(values)
    except ValueError:  # a name with a dot, which neither command lines nor config files can contain
        return

    def store() -> bool:
        check(config)
        path.write_text(config_file.resolve(config), "utf-8")
        config_file.check_same(folder, config)
        path.write_text(config_file.resolve(config_file.read_config(folder)), "utf-8")
        config_file.check_same(folder, config)
        return True

    is_valid = succeeds_or_says_why(store)
    if is_valid and builds:
        succeeds_or_says_why(lambda: build(config))


def fuzz(folder, examples: int, builds: bool) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(configs())
    def try_one(config):
        try_config(folder, config, builds)

    try_one()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_unchanged_experiments_are_built(tmp_path, name):
    config = ConfigDict(read_fields(name))
    check(config)
    build(config)
    assert json.loads(config_file.resolve(config))


def test_wrong_settings_are_refused_in_one_line(tmp_path):
    fuzz(tmp_path, 60, builds=False)


@pytest.mark.slow
def test_many_settings_are_built_or_refused_in_one_line(tmp_path):
    fuzz(tmp_path, 500, builds=True)
