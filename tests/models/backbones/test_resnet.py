import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from models.backbones.resnet import ResidualBlock, ResNet, scale_channels
from tests.models.drawn import draw, put

FULL = dict(layers=50, width=1.0, norm="batch", momentum=0.9, output_stride=32, dtype="float32")
TINY = FULL | dict(layers=10, width=0.125)


def build(**fields):
    return ResNet(rngs=nnx.Rngs(0), **FULL | fields)


@pytest.fixture(scope="module")
def abstract():
    return nnx.eval_shape(build)


class Identity(nnx.Module):
    def __call__(self, x, *, train):
        return x


def count(module):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def conv_norm(size, channels_in, channels_out):
    return size * size * channels_in * channels_out + 2 * channels_out


def basic(channels_in, channels, repeats):
    first = conv_norm(3, channels_in, channels) + conv_norm(3, channels, channels)
    shortcut = conv_norm(1, channels_in, channels) if channels_in != channels else 0
    return first + shortcut + (repeats - 1) * 2 * conv_norm(3, channels, channels)


def bottleneck(channels_in, channels, repeats):
    def path(channels_in):
        ends = conv_norm(1, channels_in, channels) + conv_norm(1, channels, 4 * channels)
        return ends + conv_norm(3, channels, channels)

    return path(channels_in) + conv_norm(1, channels_in, 4 * channels) + (repeats - 1) * path(4 * channels)


STEM = conv_norm(7, 3, 64)


@pytest.mark.parametrize(
    ("layers", "expected", "published"),
    [
        (18, STEM + basic(64, 64, 2) + basic(64, 128, 2) + basic(128, 256, 2) + basic(256, 512, 2), 11_176_512),
        (34, STEM + basic(64, 64, 3) + basic(64, 128, 4) + basic(128, 256, 6) + basic(256, 512, 3), 21_284_672),
        (
            50,
            STEM + bottleneck(64, 64, 3) + bottleneck(256, 128, 4) + bottleneck(512, 256, 6) + bottleneck(1024, 512, 3),
            23_508_032,
        ),
        (
            101,
            STEM
            + bottleneck(64, 64, 3)
            + bottleneck(256, 128, 4)
            + bottleneck(512, 256, 23)
            + bottleneck(1024, 512, 3),
            42_500_160,
        ),
    ],
)
def test_parameter_count_equals_the_published_one(layers, expected, published):
    assert count(nnx.eval_shape(lambda: build(layers=layers))) == expected == published


@pytest.mark.parametrize(
    ("fields", "channels"),
    [
        pytest.param(dict(), {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048}, marks=pytest.mark.slow),
        (dict(output_stride=16), {2: 64, 4: 256, 8: 512, 16: 2048}),
        (dict(layers=34, output_stride=8, width=0.5), {2: 32, 4: 32, 8: 256}),
        (dict(layers=10, width=0.2, norm="group"), {2: 16, 4: 16, 8: 24, 16: 48, 32: 104}),
    ],
)
def test_features_have_the_strides_of_the_fields(fields, channels):
    model = nnx.eval_shape(lambda: build(**fields))
    images = jax.ShapeDtypeStruct((2, 65, 33, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, images: model(images, train=True), model, images)
    assert model.channels == channels and list(features) == list(channels)
    for stride, feature in features.items():
        assert feature.shape == (2, -(-65 // stride), -(-33 // stride), channels[stride])


def test_scaled_channels_are_multiples_of_eight():
    assert [scale_channels(64, width) for width in (0.01, 0.2, 0.5, 1.0, 1.3)] == [8, 16, 32, 64, 80]


@pytest.fixture(scope="module")
def features():
    """Return the features at the three output strides, for the same weights and images of an odd size.

    Biases and means are random.
    """
    models = {stride: draw(lambda stride=stride: build(**TINY | dict(output_stride=stride))) for stride in (8, 16, 32)}
    state = nnx.state(models[32])
    generator = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(state):
        if path[-1] in ("bias", "mean"):
            put(variable, generator.uniform(-0.5, 0.5, variable.shape))
    images = generator.uniform(-1, 1, (2, 75, 109, 3)).astype(np.float32)
    result = {}
    for stride, model in models.items():
        nnx.update(model, state)
        features = nnx.jit(lambda model, images: model(images, train=False))(model, images)
        result[stride] = jax.tree.map(np.asarray, features)
    return result


@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_features_contain_the_strided_features(features, stride):
    dilated, strided = features[stride][stride], features[32][32]
    step = 32 // stride
    scale = np.abs(strided).max()
    assert scale > 0.1
    np.testing.assert_allclose(dilated[:, ::step, ::step], strided, rtol=1e-4, atol=1e-5 * scale)
    assert np.abs(dilated[:, 1::step, 1::step][:, :2, :3] - strided[:, :2, :3]).max() > 1e-2 * scale


def test_earlier_features_do_not_depend_on_the_output_stride(features):
    for stride in (2, 4):
        np.testing.assert_allclose(features[8][stride], features[32][stride], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features[16][8], features[32][8], rtol=1e-5, atol=1e-5)


@nnx.jit
def evaluate(module, x):
    return module(x, train=False)


def test_stem_has_three_pixels_of_padding():
    stem = draw(lambda: build(**TINY)).stem.conv
    # The kernel returns the pixel at the window's centre. With three rows of padding, window i is around pixel 2i.
    kernel = np.zeros((7, 7, 3, 8))
    kernel[3, 3, 0, 0] = 1
    put(stem.kernel, kernel)
    images = np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8, 1).repeat(3, -1)
    y = np.asarray(nnx.jit(lambda conv, x: conv(x))(stem, images))
    np.testing.assert_array_equal(y[0, :, :, 0], images[0, ::2, ::2, 0])


def test_residual_block_adds_its_path_to_the_shortcut():
    block = draw(lambda: build(**TINY)).block_1_0
    put(block.conv_2.norm.scale, np.zeros(8))
    put(block.conv_2.norm.bias, np.full(8, -0.5))
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 8)).astype(np.float32)
    np.testing.assert_allclose(evaluate(block, x), np.maximum(x - 0.5, 0), rtol=1e-6, atol=1e-6)


def test_bottleneck_has_its_stride_in_the_3x3_or_the_first_1x1_convolution():
    block = dict(bottleneck=True, stride=2, dilation=(1, 1), norm=lambda _: Identity(), dtype="float32")

    def compute(x, early, **fields):
        module = draw(lambda: ResidualBlock(4, 4, early=early, **block | fields, rngs=nnx.Rngs(0)))
        return np.asarray(evaluate(module, x))

    x = np.random.default_rng(0).standard_normal((1, 8, 6, 4)).astype(np.float32)
    early, late = compute(x, early=True), compute(x, early=False)
    # The early block equals a block of stride 1 on every second pixel of the input. The late block equals every second
    # pixel of the output of a block of stride 1.
    np.testing.assert_allclose(early, compute(x[:, ::2, ::2], early=False, stride=1), rtol=1e-5, atol=1e-5)
    assert np.abs(early - late).max() > 0.1
    np.testing.assert_allclose(late, compute(x, early=False, stride=1)[:, ::2, ::2], rtol=1e-5, atol=1e-5)


def test_every_parameter_has_a_gradient():
    graphdef, params, rest = nnx.split(draw(lambda: build(**TINY)), nnx.Param, ...)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)

    @jax.jit
    def gradients(params, rest):
        def loss(params):
            last = nnx.merge(graphdef, params, rest, copy=True)(images, train=True)[32]
            return (last * jnp.arange(last.size).reshape(last.shape)).mean()

        return jax.grad(loss)(params)

    for path, gradient in nnx.to_flat_state(gradients(params, rest)):
        assert np.isfinite(gradient[...]).all() and np.abs(gradient[...]).max() > 0, path


def test_invalid_fields_raise_a_user_error():
    for field, value, message in (
        ("layers", 20, r"backbone\.layers=20 .* 10 or 18 or 34 or 50 or 101$"),
        ("output_stride", 4, r"backbone\.output_stride=4 .* 32 or 16 or 8$"),
        ("width", 0.0, r"backbone\.width=0\.0 .* above 0$"),
        ("norm", "none", r"backbone\.norm='none' .* 'batch' or 'group' or 'frozen'$"),
    ):
        fields = {name: value for name, value in FULL.items() if name != "dtype"} | {"name": "resnet", field: value}
        with pytest.raises(UserError, match=message):
            registry.build_backbone(fields, dtype="float32", rngs=nnx.Rngs(0))


# Names in the weight files of torchvision and timm.
NAMES = {
    ("stem", "conv", "kernel"): "conv1.weight",
    ("stem", "norm", "mean"): "bn1.running_mean",
    ("block_1_0", "conv_3", "norm", "scale"): "layer1.0.bn3.weight",
    ("block_1_0", "shortcut", "conv", "kernel"): "layer1.0.downsample.0.weight",
    ("block_3_5", "conv_2", "conv", "kernel"): "layer3.5.conv2.weight",
    ("block_4_0", "shortcut", "norm", "var"): "layer4.0.downsample.1.running_var",
    ("block_4_2", "conv_1", "norm", "bias"): "layer4.2.bn1.bias",
}
UNUSED = {"fc.weight", "fc.bias", "bn1.num_batches_tracked", "layer4.0.downsample.1.num_batches_tracked"}


def test_pretrained_names_cover_the_backbone(abstract):
    mapping, ignored, _ = abstract.pretrained(["layer1.0.conv1.weight", "unknown.weight", *UNUSED])
    assert set(mapping) == {path for path, _ in nnx.to_flat_state(nnx.state(abstract))}
    # There are 53 kernels, each with four arrays of its norm.
    assert len({key for key, _ in mapping.values()}) == len(mapping) == 53 * 5
    assert {path: mapping[path][0] for path in NAMES} == NAMES
    assert ignored == UNUSED
    _, convert = mapping["block_1_0", "conv_2", "conv", "kernel"]
    kernel = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)  # [out, in, height, width]
    assert convert(kernel)[4, 6, 2, 1] == kernel[1, 2, 4, 6]


@pytest.mark.parametrize("layers", [10, 18, 34])
def test_basic_blocks_have_two_convolutions_and_stage_1_has_no_shortcut(layers):
    model = nnx.eval_shape(lambda: build(layers=layers))
    mapping, *_ = model.pretrained(["layer1.0.conv1.weight"])
    assert set(mapping) == {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    keys = {key for key, _ in mapping.values()}
    assert "layer2.0.downsample.0.weight" in keys
    assert not {"layer1.0.downsample.0.weight", "layer1.0.conv3.weight"} & keys


def test_mismatched_pretrained_weights_raise_a_user_error(abstract):
    with pytest.raises(UserError, match=r"it has no 'layer1\.0\.conv1\.weight'"):
        abstract.pretrained(["features.0.0.weight"])
    with pytest.raises(UserError, match="batch statistics"):
        nnx.eval_shape(lambda: build(norm="group")).pretrained(["layer1.0.conv1.weight"])


class Reference:
    """torchvision's forward pass, written with torch functions on a state dict with torchvision's names."""

    def __init__(self, weights, layers, output_stride):
        self.weights, self.bottleneck = weights, layers == 50
        self.repeats = {10: (1, 1, 1, 1), 50: (3, 4, 6, 3)}[layers]
        self.output_stride = output_stride

    def conv_norm(self, x, conv, norm, stride=1, dilation=1):
        functional = pytest.importorskip("torch.nn.functional")

        kernel = self.weights[f"{conv}.weight"]
        padding = dilation * (kernel.shape[-1] // 2)
        x = functional.conv2d(x, kernel, stride=stride, padding=padding, dilation=dilation)
        arrays = (self.weights[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *arrays, eps=1e-5)

    def __call__(self, x):
        functional = pytest.importorskip("torch.nn.functional")

        x = self.conv_norm(x, "conv1", "bn1", stride=2).relu()
        features, stride, dilation = {2: x}, 4, 1
        x = functional.max_pool2d(x, 3, 2, 1)
        for stage, repeats in enumerate(self.repeats, 1):
            step, before = (2 if stage > 1 else 1), dilation
            if stride * step > self.output_stride:
                step, dilation = 1, dilation * step
            stride *= step
            for number in range(repeats):
                name = f"layer{stage}.{number}"
                step, first = (step, before) if number == 0 else (1, dilation)
                if self.bottleneck:
                    y = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1").relu()
                    y = self.conv_norm(y, f"{name}.conv2", f"{name}.bn2", step, first).relu()
                    y = self.conv_norm(y, f"{name}.conv3", f"{name}.bn3")
                else:
                    y = self.conv_norm(x, f"{name}.conv1", f"{name}.bn1", step, first).relu()
                    y = self.conv_norm(y, f"{name}.conv2", f"{name}.bn2", 1, dilation)
                if f"{name}.downsample.0.weight" in self.weights:
                    x = self.conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", step)
                x = (x + y).relu()
            features[stride] = x
        return features


@pytest.mark.parametrize(("layers", "output_stride"), [(10, 16), (50, 8)])
def test_features_equal_pytorch(layers, output_stride):
    torch = pytest.importorskip("torch")
    model = draw(lambda: build(**TINY | dict(layers=layers, output_stride=output_stride)))
    mapping, *_ = model.pretrained(["layer1.0.conv1.weight"])
    state, generator, weights = nnx.state(model), np.random.default_rng(0), {}
    for path, variable in nnx.to_flat_state(state):
        key, convert = mapping[path]
        shape = [variable.shape[axis] for axis in (3, 2, 0, 1)] if path[-1] == "kernel" else variable.shape
        low = 0.5 if path[-1] in ("scale", "var") else -0.5
        array = generator.uniform(low, low + 1, shape) * (0.3 if path[-1] == "kernel" else 1)
        weights[key] = torch.from_numpy(array.astype(np.float32))
        put(variable, convert(weights[key].numpy()))
    nnx.update(model, state)
    images = generator.uniform(-1, 1, (2, 75, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = Reference(weights, layers, output_stride)(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    features = nnx.jit(lambda model, images: model(images, train=False))(model, images)
    assert list(features) == list(expected)
    for stride, theirs in expected.items():
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(features[stride], theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
