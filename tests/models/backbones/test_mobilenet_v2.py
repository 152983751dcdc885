import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models.backbones.mobilenet_v2 import MobileNetV2, scale_channels
from tests.models.drawn import draw, put


def build(**fields):
    fields = dict(width=1.0, depth=1.0, variant="torchvision", norm="batch", momentum=0.9, dtype="float32") | fields
    return MobileNetV2(rngs=nnx.Rngs(0), **fields)


@pytest.fixture(scope="module")
def abstract():
    return nnx.eval_shape(build)


def test_features_have_the_five_strides():
    images = jax.ShapeDtypeStruct((2, 65, 33, 3), jnp.float32)
    for fields in (dict(width=0.35, depth=0.1), dict(depth=1.5, variant="keras", norm="group")):
        model = nnx.eval_shape(lambda fields=fields: build(**fields))
        features = nnx.eval_shape(lambda model, images: model(images, train=True), model, images)
        assert list(features) == list(model.channels) == [2, 4, 8, 16, 32]
        for stride, feature in features.items():
            assert feature.shape == (2, -(-65 // stride), -(-33 // stride), model.channels[stride])


def test_channels_and_depth_equal_the_paper(abstract):
    assert abstract.channels == {2: 96, 4: 144, 8: 192, 16: 576, 32: 320}
    assert abstract.repeats == (1, 2, 3, 4, 3, 3, 1)
    assert [scale_channels(32, width) for width in (0.1, 0.35, 0.75, 1.0, 1.4)] == [8, 16, 24, 32, 48]


@pytest.mark.parametrize(("variant", "offset"), [("keras", 0), ("torchvision", -1)])
def test_variant_decides_which_pixels_a_strided_convolution_reads(variant, offset):
    conv, kernel = draw(lambda: build(variant=variant, width=0.1, depth=0.1)).stem.conv, np.zeros((3, 3, 3, 8))
    kernel[0, 0, 0, 0] = 1  # returns the window's first pixel
    put(conv.kernel, kernel)
    images = np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8, 1).repeat(3, -1)
    shifted = np.pad(images[0, :, :, 0], 1)[1 + offset :, 1 + offset :]
    y = np.asarray(nnx.jit(lambda conv, x: conv(x))(conv, images))
    np.testing.assert_array_equal(y[0, :, :, 0], shifted[:8:2, :8:2])


# Names in the weight files of the libraries.
TORCHVISION = {
    ("stem", "conv", "kernel"): "features.0.0.weight",
    ("block_0", "depthwise", "conv", "kernel"): "features.1.conv.0.0.weight",
    ("block_0", "project", "norm", "bias"): "features.1.conv.2.bias",
    ("block_3", "expand", "norm", "scale"): "features.4.conv.0.1.weight",
    ("block_3", "depthwise", "norm", "var"): "features.4.conv.1.1.running_var",
    ("block_15", "project", "norm", "mean"): "features.16.conv.3.running_mean",
    ("block_16", "project", "kernel"): "features.17.conv.2.weight",
}
TIMM = {
    ("stem", "norm", "mean"): "bn1.running_mean",
    ("block_0", "depthwise", "conv", "kernel"): "blocks.0.0.conv_dw.weight",
    ("block_0", "project", "norm", "bias"): "blocks.0.0.bn2.bias",
    ("block_3", "expand", "norm", "scale"): "blocks.2.0.bn1.weight",
    ("block_13", "depthwise", "norm", "var"): "blocks.5.0.bn2.running_var",
    ("block_16", "project", "kernel"): "blocks.6.0.conv_pwl.weight",
}
KERAS = {
    ("stem", "norm", "mean"): "bn_Conv1/moving_mean",
    ("block_0", "depthwise", "conv", "kernel"): "expanded_conv_depthwise/depthwise_kernel",
    ("block_3", "expand", "norm", "scale"): "block_3_expand_BN/gamma",
    ("block_16", "project", "kernel"): "block_16_project/kernel",
}
KERAS_3 = {("block_0", "depthwise", "conv", "kernel"): "expanded_conv_depthwise/kernel"}
UNUSED = {
    "torchvision": {"features.17.conv.3.weight", "features.18.0.weight", "classifier.1.bias"},
    "timm": {"blocks.6.0.bn3.running_var", "conv_head.weight", "bn2.bias", "classifier.weight"},
    "keras": {"block_16_project_BN/beta", "Conv_1/kernel", "Conv_1_bn/gamma", "predictions/bias"},
}


@pytest.mark.parametrize(
    ("style", "mark", "names"),
    [
        ("torchvision", "features.0.0.weight", TORCHVISION),
        ("timm", "conv_stem.weight", TIMM),
        ("keras", "expanded_conv_depthwise/depthwise_kernel", KERAS),
        ("keras", "expanded_conv_depthwise/kernel", KERAS | KERAS_3),
    ],
)
def test_pretrained_names_cover_the_backbone(abstract, style, mark, names):
    model = abstract if style != "keras" else nnx.eval_shape(lambda: build(variant="keras"))
    mapping, ignored, _ = model.pretrained([mark, "unknown.weight", *UNUSED[style]])
    assert set(mapping) == {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert len({key for key, _ in mapping.values()}) == len(mapping)
    assert {path: mapping[path][0] for path in names} == names
    assert ignored == UNUSED[style]
    assert not ignored & {key for key, _ in mapping.values()}


def test_pretrained_kernels_are_converted_to_our_layout(abstract):
    mapping, *_ = abstract.pretrained(["features.0.0.weight"])
    _, convert = mapping["block_1", "depthwise", "conv", "kernel"]
    assert convert(np.zeros((96, 1, 3, 3))).shape == (3, 3, 1, 96)
    for name in ("depthwise_kernel", "kernel"):  # Keras 2 and 3
        mapping, *_ = nnx.eval_shape(lambda: build(variant="keras")).pretrained([f"expanded_conv_depthwise/{name}"])
        key, convert = mapping["block_1", "depthwise", "conv", "kernel"]
        assert key == f"block_1_depthwise/{name}" and convert(np.zeros((3, 3, 96, 1))).shape == (3, 3, 1, 96)


def test_mismatched_pretrained_weights_raise_a_user_error(abstract):
    with pytest.raises(UserError, match=r"none of 'features\.0\.0\.weight'"):
        abstract.pretrained(["layer1.0.conv1.weight"])
    with pytest.raises(UserError, match=r"Keras need model\.variant='keras', not 'torchvision'"):
        abstract.pretrained(["expanded_conv_depthwise/kernel"])
    with pytest.raises(UserError, match="batch statistics"):
        nnx.eval_shape(lambda: build(norm="group")).pretrained(["features.0.0.weight"])


def test_features_equal_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    load_file = pytest.importorskip("safetensors.numpy").load_file
    from benchmarks.pytorch_twin import Encoder

    torch.manual_seed(0)
    twin = Encoder()
    for name, tensor in twin.state_dict().items():  # random, so that a wrong statistic or scale is found
        if tensor.ndim == 1:
            tensor.copy_(torch.rand(len(tensor)) + (0.5 if name.endswith(("weight", "var")) else -0.5))
    save_file(twin.state_dict(), tmp_path / "twin.safetensors")
    weights = load_file(tmp_path / "twin.safetensors")

    model = build()
    mapping, ignored, _ = model.pretrained(weights)
    assert {key for key, _ in mapping.values()} | ignored == set(weights)
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        key, convert = mapping[path]
        array = convert(weights[key])
        assert array.shape == variable.shape, path
        variable[...] = jnp.asarray(array)
    nnx.update(model, state)

    images = np.random.default_rng(0).uniform(-1, 1, (2, 75, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    features = nnx.jit(lambda model, images: model(images, train=False))(model, images)
    for ours, theirs in zip(features.values(), expected, strict=True):
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
