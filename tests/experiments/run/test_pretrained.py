import importlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import unet_shapes
from errors import UserError
from experiments.run import pretrained
from experiments.run import state as states
from experiments.run.checkpoints import Checkpoints
from experiments.run.optim import make_optimizer
from input_pipeline.datasets.coco import CATEGORY_IDS, CLASS_NAMES
from tests import published

CLASSES = ("ant", "boar", "fox")
PYRAMID = {"retinanet": dict(norm="none"), "fcos": dict(norm="group")}  # the norms of published files


def build(classes: int = 3, **fields):
    config = unet_shapes.get_config("debug")
    config.model.update(dict(variant="torchvision") | fields)
    architecture, _, trained = states.describe(config, classes)
    return config, architecture, states.initialise(config, classes, seed=0), trained


@pytest.fixture(scope="module")
def model():
    return build()


def torchvision_file(path, architecture, variables, **changes):
    """Write a file with torchvision's names and layouts and random values. `changes` adds keys, or removes them by None."""
    encoder = architecture.merge(variables).encoder
    names, unused, _ = encoder.pretrained(["features.0.0.weight", "classifier.1.bias"])
    rng, weights = np.random.default_rng(0), {}
    for place, (key, _) in names.items():
        shape = variables["/".join(map(str, ("encoder", *place)))].shape
        value = rng.normal(size=shape).astype(np.float32)
        weights[key] = np.ascontiguousarray(value.transpose(3, 2, 0, 1)) if len(shape) == 4 else value
    weights["classifier.1.bias"] = np.zeros(1000, np.float32)
    assert "classifier.1.bias" in unused
    weights |= {key.replace("__", "."): value for key, value in changes.items()}
    save_file({key: value for key, value in weights.items() if value is not None}, path)
    return {key: value for key, value in weights.items() if value is not None}


def test_every_encoder_variable_comes_from_the_file(model, tmp_path):
    _, architecture, variables, _ = model
    weights = torchvision_file(tmp_path / "w.safetensors", architecture, variables)
    loaded, new, remark = pretrained.load_weights(str(tmp_path / "w.safetensors"), architecture, variables, CLASSES)
    assert loaded.keys() == variables.keys() and remark == ""
    for name, value in loaded.items():
        assert (name.startswith("encoder/")) != np.array_equal(value, variables[name]), name
    stem = weights["features.0.0.weight"]
    np.testing.assert_array_equal(loaded["encoder/stem/conv/kernel"], stem.transpose(2, 3, 1, 0))
    assert set(new) == {name for name in variables if not name.startswith("encoder/")}


def test_random_values_that_stay_frozen_give_a_warning(model, tmp_path, capsys):
    config, architecture, variables, _ = model
    config = config.copy_and_resolve_references()
    config.optim.freeze = ("encoder/",)
    pretrained.fill(config, architecture, variables, CLASSES)
    assert "arrays of encoder at their random initial values" in capsys.readouterr().err
    torchvision_file(tmp_path / "w.safetensors", architecture, variables)
    config.pretrained = str(tmp_path / "w.safetensors")
    pretrained.fill(config, architecture, variables, CLASSES)
    assert not capsys.readouterr().err


def test_the_report_counts_values_and_names_missing_parts():
    variables = {
        "backbone/a": np.zeros((2, 3)),
        "backbone/b": np.zeros(4),
        "head/kernel": np.zeros(10),
        "scale": np.zeros(1),
    }
    line = pretrained.report("weights from FILE", variables, ["head/kernel", "backbone/b"])
    assert line == "weights from FILE: 7 of 21 values; not loaded: 1 arrays of backbone, head"
    assert pretrained.report("weights from FILE", variables, []).endswith("21 of 21 values; not loaded: none")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(features__0__1__weight=None), ["has no key 'features.0.1.weight'"]),
        (dict(features__99__0__weight=np.zeros(3, np.float32)), ["unknown key 'features.99.0.weight'"]),
        (dict(features__0__0__weight=np.zeros((1, 3, 3, 3), np.float32)), ["features.0.0.weight", "shape"]),
    ],
)
def test_a_file_that_does_not_match_is_refused(model, tmp_path, changes, words):
    _, architecture, variables, _ = model
    torchvision_file(tmp_path / "w.safetensors", architecture, variables, **changes)
    with pytest.raises(UserError) as caught:
        pretrained.load_weights(str(tmp_path / "w.safetensors"), architecture, variables, CLASSES)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_weights_of_another_padding_are_refused(model, tmp_path):
    _, architecture, variables, _ = model
    torchvision_file(tmp_path / "w.safetensors", architecture, variables)
    _, keras, variables, _ = build(variant="keras")
    with pytest.raises(UserError, match="torchvision"):
        pretrained.load_weights(str(tmp_path / "w.safetensors"), keras, variables, CLASSES)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_a_file_that_is_not_safetensors_is_refused_in_one_line(model, tmp_path, content):
    _, architecture, variables, _ = model
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"w.safetensors cannot be read") as caught:
        pretrained.load_weights(str(tmp_path / "w.safetensors"), architecture, variables, CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_init_from_loads_all_except_the_changed_head(tmp_path, ema):
    config, _, variables, trained = build()
    variables = {name: value + 1 for name, value in variables.items()}
    optimizer = make_optimizer(config.optim, config.train.steps, trained)
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(5, states.create(variables, trained, optimizer, variables if ema else {}), {})
    checkpoints.close()
    _, _, other, _ = build(classes=7)
    started, fresh = pretrained.init_from(str(tmp_path), other)
    assert fresh == ["head/bias", "head/kernel"]
    for name, value in started.items():
        np.testing.assert_array_equal(value, other[name] if name in fresh else variables[name], err_msg=name)


def test_init_from_a_run_of_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, {"params": {"trunk/kernel": jnp.zeros((2, 2))}}, {})
    checkpoints.close()
    with pytest.raises(UserError, match="has no parameter that fits this model"):
        pretrained.init_from(str(tmp_path), build()[2])


def detector(name, class_names, **fields):
    config = importlib.import_module(f"configs.{published.CONFIGS[name]}").get_config("debug")
    config.model.update(fields)
    architecture, _, _ = states.describe(config, len(class_names))
    return config, architecture, states.initialise(config, len(class_names), seed=0)


def of_classes(variables):
    return {name for name in variables if re.match(r"logits|box_head/(logits|offsets)|mask_head/logits", name)}


@pytest.mark.parametrize("name", published.DETECTORS)
def test_a_detectors_classes_match_coco_by_category_id(name, tmp_path):
    names = CLASS_NAMES[::-1]
    config, architecture, variables = detector(name, names, **PYRAMID.get(name, {}))
    arrays = published.draw_file(name, config)
    save_file(arrays, tmp_path / "w.safetensors")
    loaded, new, remark = pretrained.load_weights(str(tmp_path / "w.safetensors"), architecture, variables, names)
    assert (new, remark) == ([], "")
    regions = {"box_head/logits": "roi_heads.box_predictor.cls_score"}
    layers = {
        "ssd300": {"logits_1": "head.classification_head.module_list.1"},
        "faster_rcnn": regions,
        "mask_rcnn": regions | {"mask_head/logits": "roi_heads.mask_predictor.mask_fcn_logits"},
    }.get(name, {"logits": "head.classification_head.cls_logits"})
    for layer, key in layers.items():
        theirs = arrays[f"{key}.bias"].reshape(-1, 91)
        ours = loaded[f"{layer}/bias"].reshape(len(theirs), -1)
        background = ours.shape[1] - 80
        assert background == (name in ("ssd300", *published.TWO_STAGES))
        for index in (0, 30, 79):
            number = CATEGORY_IDS[CLASS_NAMES.index(names[index])]
            np.testing.assert_array_equal(ours[:, background + index], theirs[:, number])
        if background:
            np.testing.assert_array_equal(ours[:, 0], theirs[:, 0])


@pytest.mark.parametrize("name", published.DETECTORS)
def test_other_classes_stay_random_and_are_reported(name, tmp_path):
    config, architecture, variables = detector(name, CLASSES, **PYRAMID.get(name, {}))
    save_file(published.draw_file(name, config), tmp_path / "w.safetensors")
    loaded, new, remark = pretrained.load_weights(str(tmp_path / "w.safetensors"), architecture, variables, CLASSES)
    assert set(new) == of_classes(variables) and len(new) >= 2
    for path in variables:
        assert np.array_equal(loaded[path], variables[path]) == (path in new), path
    held = 90 if name in ("ssd300", *published.TWO_STAGES) else 91  # without a background
    assert remark == f"; the file has {held} classes, the dataset has 3, so the class layer stays random"


def test_per_class_boxes_are_reordered_to_yx(tmp_path):
    """The file has (x, y) for each class. The model has all classes for each coordinate, in the order (y, x)."""
    config, architecture, variables = detector("faster_rcnn", CLASS_NAMES)
    arrays = published.draw_file("faster_rcnn", config)
    save_file(arrays, tmp_path / "w.safetensors")
    loaded, *_ = pretrained.load_weights(str(tmp_path / "w.safetensors"), architecture, variables, CLASS_NAMES)
    theirs, ours = arrays["roi_heads.box_predictor.bbox_pred.weight"], loaded["box_head/offsets/kernel"][0, 0]
    for place in (0, 44, 79):
        for coordinate, their_coordinate in enumerate((1, 0, 3, 2)):
            expected = theirs[4 * CATEGORY_IDS[place] + their_coordinate]
            np.testing.assert_array_equal(ours[:, 81 * coordinate + 1 + place], expected)


def test_a_detector_file_with_missing_or_unknown_keys_is_refused(tmp_path):
    config, architecture, variables = detector("ssd300", CLASSES)
    arrays = published.draw_file("ssd300", config, 4)
    for changed, words in (
        ({"backbone.extra.9.0.bias": np.zeros(3, np.float32)}, "unknown key 'backbone.extra.9.0.bias'"),
        ({"head.regression_head.module_list.2.bias": None}, "no key 'head.regression_head.module_list.2.bias'"),
        (
            {"backbone.scale_weight": np.zeros(7, np.float32)},
            "backbone.scale_weight has the shape .* for l2_norm/scale",
        ),
    ):
        files = {key: value for key, value in (arrays | changed).items() if value is not None}
        save_file(files, tmp_path / "w.safetensors")
        with pytest.raises(UserError, match=words):
            pretrained.load_weights(str(tmp_path / "w.safetensors"), architecture, variables, CLASSES)
