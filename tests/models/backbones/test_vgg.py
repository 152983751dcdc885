import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from models.backbones.vgg import Classifier
from tests.models.drawn import draw, put


def build(padding="SAME", classifier=None, **fields):
    backbone = dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9) | fields
    return registry.build_backbone(backbone, padding=padding, classifier=classifier, dtype="float32", rngs=nnx.Rngs(0))


def shapes(size, **fields):
    model = nnx.eval_shape(lambda: build(**fields))
    images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
    assert {stride: feature.shape[-1] for stride, feature in features.items()} == model.channels
    return {stride: feature.shape[1:3] for stride, feature in features.items()}


def count(model):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_features_have_the_sizes_of_the_six_strides():
    expected = {stride: (-(-65 // stride), -(-47 // stride)) for stride in (1, 2, 4, 8, 16, 32)}
    for fields in (dict(), dict(layers=11, width=0.25), dict(layers=19, width=0.1, norm="batch"), dict(norm="group")):
        assert shapes((65, 47), **fields) == expected


def test_feature_sizes_equal_the_released_fcn():
    # The first convolution returns 500 + 2 * 100 - 2 pixels. Halves are rounded up. The 7x7 convolution has no padding.
    sizes = shapes((500, 500), padding=((100, 100), (100, 100)), classifier=Classifier(4096, 0.5, "VALID"))
    assert sizes == {1: (698, 698), 2: (349, 349), 4: (175, 175), 8: (88, 88), 16: (44, 44), 32: (16, 16)}


@pytest.mark.parametrize("layers", [11, 13, 16, 19])
def test_parameter_count_equals_the_paper(layers):
    # Table 2 gives 133, 133, 138 and 144 million. They include 4096 * 1000 + 1000 of a last layer that is absent here.
    convolutions = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[layers]
    expected, channels = 0, 3
    for out, repeats in zip((64, 128, 256, 512, 512), convolutions, strict=True):
        expected += 9 * channels * out + out + (repeats - 1) * (9 * out * out + out)
        channels = out
    assert count(nnx.eval_shape(lambda: build(layers=layers))) == expected
    expected += 7 * 7 * 512 * 4096 + 4096 + 4096 * 4096 + 4096
    model = nnx.eval_shape(lambda: build(layers=layers, classifier=Classifier(4096, 0.5, "SAME")))
    assert count(model) == expected
    assert round((expected + 4096 * 1000 + 1000) / 1e6) == {11: 133, 13: 133, 16: 138, 19: 144}[layers]


# Our path -> torchvision's name.
NAMES = {
    "none": {
        ("conv_1_1", "conv", "kernel"): "features.0.weight",
        ("conv_1_2", "conv", "bias"): "features.2.bias",
        ("conv_2_1", "conv", "kernel"): "features.5.weight",
        ("conv_4_3", "conv", "kernel"): "features.21.weight",
        ("conv_5_3", "conv", "bias"): "features.28.bias",
    },
    "batch": {
        ("conv_1_1", "conv", "kernel"): "features.0.weight",
        ("conv_1_1", "norm", "var"): "features.1.running_var",
        ("conv_2_1", "conv", "bias"): "features.7.bias",
        ("conv_5_3", "conv", "kernel"): "features.40.weight",
        ("conv_5_3", "norm", "scale"): "features.41.weight",
    },
}
LAYERS = {"torchvision": ("classifier.0", "classifier.3"), "timm": ("pre_logits.fc1", "pre_logits.fc2")}
MARKS = {"none": ["features.0.weight"], "batch": ["features.0.weight", "features.1.running_mean"]}


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("style", ["torchvision", "timm"])
@pytest.mark.parametrize("classifier", [None, Classifier(64, 0.5, "SAME")])
def test_pretrained_names_cover_the_backbone(norm, style, classifier):
    model = nnx.eval_shape(lambda: build(norm=norm, width=0.1, classifier=classifier))
    fc6, fc7 = (f"{layer}.weight" for layer in LAYERS[style])
    last = {"torchvision": "classifier.6.bias", "timm": "head.fc.bias"}[style]
    mapping, ignored, _ = model.pretrained([*MARKS[norm], fc6, fc7, last, "features.1.num_batches_tracked", "unknown"])
    assert set(mapping) == {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert len({key for key, _ in mapping.values()}) == len(mapping)
    assert {path: mapping[path][0] for path in NAMES[norm]} == NAMES[norm]
    unused = {last, "features.1.num_batches_tracked"}
    if classifier is None:
        assert ignored == unused | {fc6, fc7}
    else:
        assert ignored == unused
        assert (mapping["fc6", "kernel"][0], mapping["fc7", "kernel"][0]) == (fc6, fc7)


def test_mismatched_pretrained_weights_raise_a_user_error():
    models = {
        norm: nnx.eval_shape(lambda norm=norm: build(norm=norm, width=0.1)) for norm in ("none", "batch", "group")
    }
    with pytest.raises(UserError, match=r"it has no 'features\.0\.weight'"):
        models["none"].pretrained(["layer1.0.conv1.weight"])
    with pytest.raises(UserError, match="'batch', and the file has no batch statistics"):
        models["batch"].pretrained(MARKS["none"])
    with pytest.raises(UserError, match="'none', and the file has batch statistics"):
        models["none"].pretrained(MARKS["batch"])
    with pytest.raises(UserError, match="'group'"):
        models["group"].pretrained(MARKS["none"])


def test_invalid_fields_raise_a_user_error():
    with pytest.raises(UserError, match=r"backbone\.layers=17 .* 11 or 13 or 16 or 19$"):
        build(layers=17)
    with pytest.raises(UserError, match=r"backbone\.width=0 .* above 0$"):
        build(width=0)


def test_convolutions_equal_the_fully_connected_classifier():
    """With weights in torchvision's layout, fc6 and fc7 as convolutions equal matrix products in numpy at 224x224."""
    model = draw(lambda: build(width=0.05, classifier=Classifier(12, 0.5, "VALID")))  # 8 to 24 channels
    generator = np.random.default_rng(0)
    state = nnx.state(model)
    kernels = {path[0]: variable.shape for path, variable in nnx.to_flat_state(state) if path[-1] == "kernel"}
    mapping, *_ = model.pretrained(["features.0.weight"])
    weights = {}
    for path, (key, _) in mapping.items():
        height, width, inner, outer = kernels[path[0]]
        shape = (outer, inner, height, width) if key.startswith("features") else (outer, inner * height * width)
        values = generator.standard_normal(outer if path[-1] == "bias" else shape)
        weights[key] = (0.1 * values if path[-1] == "bias" else values * np.sqrt(2 / np.prod(shape[1:]))).astype("f")
    for path, variable in nnx.to_flat_state(state):
        key, convert = mapping[path]
        put(variable, convert(weights[key]))
    nnx.update(model, state)

    images = generator.uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    features = jax.tree.map(np.asarray, nnx.jit(lambda model, images: model(images, train=False))(model, images))
    conv5 = features[16]
    pool5 = conv5.reshape(2, 7, 2, 7, 2, -1).max((2, 4))
    x = pool5.transpose(0, 3, 1, 2).reshape(2, -1)  # PyTorch flattens channels, rows, columns
    for layer in ("classifier.0", "classifier.3"):
        x = np.maximum(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0)
    assert features[32].shape == (2, 1, 1, 12) and np.abs(x).max() > 0.1
    np.testing.assert_allclose(features[32][:, 0, 0], x, rtol=1e-4, atol=1e-5)


def test_batch_norm_and_dropout_act_in_training_only():
    model = draw(lambda: build(layers=11, width=0.05, norm="batch", classifier=Classifier(16, 0.5, "SAME")))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)

    @nnx.jit(static_argnames="train")
    def last(model, images, seed, train):
        return model(images, train=train, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[32]

    first, second = last(model, images, 0, train=True), last(model, images, 1, train=True)
    assert not np.array_equal(first, second)
    assert (np.asarray(first) == 0).mean() > (np.asarray(last(model, images, 0, train=False)) == 0).mean()
    np.testing.assert_array_equal(last(model, images, 0, train=False), last(model, images, 1, train=False))


ATROUS = Classifier(12, 0.0, "SAME", dilation=6)


def test_atrous_classifier_keeps_the_grid_of_stride_16():
    assert shapes((300, 301), classifier=ATROUS) == {
        1: (300, 301),
        2: (150, 151),
        4: (75, 76),
        8: (38, 38),
        16: (19, 19),
    }


def test_atrous_classifier_dilates_after_a_pooling_of_stride_1():
    model, plain = draw(lambda: build(width=0.05, classifier=ATROUS)), draw(lambda: build(width=0.05))
    own = dict(nnx.to_flat_state(nnx.state(model)))
    for path, variable in nnx.to_flat_state(nnx.state(plain)):
        own[path].set_value(variable[...])  # so that both have the same conv5_3
    generator = np.random.default_rng(0)
    for layer in (model.fc6, model.fc7):
        put(layer.bias, generator.standard_normal(layer.bias.shape))
    images = generator.uniform(-1, 1, (1, 150, 120, 3)).astype(np.float32)
    forward = nnx.jit(lambda model, images: model(images, train=False)[16])
    y = np.asarray(forward(model, images))

    x = np.pad(forward(plain, images), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = y.shape[1:3]
    assert (rows, columns) == (10, 8)
    x = np.max([x[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)], axis=0)
    x = np.pad(x, ((0, 0), (6, 6), (6, 6), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    fc6 = sum(
        x[:, 6 * i : 6 * i + rows, 6 * j : 6 * j + columns] @ np.asarray(model.fc6.kernel[...])[i, j] for i, j in taps
    )
    x = np.maximum(fc6 + np.asarray(model.fc6.bias[...]), 0)
    x = np.maximum(x @ np.asarray(model.fc7.kernel[...])[0, 0] + np.asarray(model.fc7.bias[...]), 0)
    assert np.abs(x).max() > 0.1
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("style", ["torchvision", "timm"])
def test_atrous_classifier_loads_every_third_tap_and_evenly_spaced_channels(style):
    """The file has 8 channels in fc6 and fc7, and 5 in conv5. The model has 4 in fc6 and fc7.

    Each number in the file identifies its place.
    """
    model = nnx.eval_shape(lambda: build(width=0.05, classifier=Classifier(4, 0.0, "SAME", dilation=6)))
    layers = LAYERS[style]
    mapping, *_ = model.pretrained(["features.0.weight", *(f"{layer}.weight" for layer in layers)])
    out, inner, row, column = np.ogrid[:8, :5, :7, :7]
    kernel = (1000 * out + 100 * inner + 10 * row + column).astype(np.float32)
    key, convert = mapping["fc6", "kernel"]
    assert key == f"{layers[0]}.weight"
    for stored in (kernel, kernel.reshape(8, -1)):  # the layouts of a convolution and of a fully connected layer
        expected = [
            [[[1000 * o + 100 * i + 10 * r + c for o in (0, 2, 4, 6)] for i in range(5)] for c in (0, 3, 6)]
            for r in (0, 3, 6)
        ]
        np.testing.assert_array_equal(convert(stored), expected)
    key, convert = mapping["fc7", "kernel"]
    assert key == f"{layers[1]}.weight"
    stored = 10.0 * np.arange(8)[:, None] + np.arange(8)  # [out, in]
    np.testing.assert_array_equal(convert(stored), [[[[10 * o + i for o in (0, 2, 4, 6)] for i in (0, 2, 4, 6)]]])
    for fc in ("fc6", "fc7"):
        np.testing.assert_array_equal(mapping[fc, "bias"][1](np.arange(8)), [0, 2, 4, 6])
    with pytest.raises(UserError, match="have 3 channels, model.fc wants 4"):
        mapping["fc6", "bias"][1](np.arange(3))
