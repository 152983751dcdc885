import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file

from errors import UserError
from models import registry
from models.backbones.efficientnet_lite import EfficientNetLite
from tests.models.drawn import draw, put

ZEBRA, UMBRELLA, POODLES = [340], [879], [265, 266, 267]  # classes of ImageNet; toy, miniature and standard poodle


def build(variant=0, **fields):
    fields = dict(width=1.0, depth=1.0, norm="batch", momentum=0.9, dtype="float32") | fields
    return EfficientNetLite(variant=variant, rngs=nnx.Rngs(0), **fields)


@pytest.mark.parametrize(
    ("variant", "published"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072), (3, 8_197_096), (4, 13_006_568)]
)
def test_parameter_count_equals_the_published_one_without_the_classifier(variant, published):
    model = nnx.eval_shape(lambda: build(variant))
    count = sum(variable.size for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)))
    head = model.channels[32] * 1280 + 2 * 1280 + 1281 * 1000  # conv_head, its normalisation, the classifier
    assert count + head == published


def test_features_have_the_five_strides():
    images = jax.ShapeDtypeStruct((2, 65, 33, 3), jnp.float32)
    for variant, channels in ((0, (16, 24, 40, 112, 320)), (4, (24, 32, 56, 160, 448))):
        model = nnx.eval_shape(lambda variant=variant: build(variant, depth=0.1))
        features = nnx.eval_shape(lambda model, images: model(images, train=True), model, images)
        assert model.channels == dict(zip((2, 4, 8, 16, 32), channels, strict=True))
        assert {stride: feature.shape for stride, feature in features.items()} == {
            stride: (2, -(-65 // stride), -(-33 // stride), count) for stride, count in model.channels.items()
        }


UNUSED = {"conv_head.weight", "bn2.running_var", "bn2.num_batches_tracked", "classifier.bias"}


def test_width_and_depth_reduce_the_network():
    model = nnx.eval_shape(lambda: build(width=0.25, depth=0.1))
    assert model.repeats == (1,) * 7 and model.channels == {2: 8, 4: 8, 8: 16, 16: 32, 32: 80}


def test_pretrained_names_cover_the_backbone():
    model = nnx.eval_shape(lambda: build(1))
    arrays, unused, _ = model.pretrained(["conv_stem.weight", "unknown.weight", *UNUSED])
    assert set(arrays) == {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert len({key for key, _ in arrays.values()}) == len(arrays)
    assert unused == UNUSED
    names = {
        ("block_0", "project", "norm", "scale"): "blocks.0.0.bn2.weight",
        ("block_3", "depthwise", "conv", "kernel"): "blocks.1.2.conv_dw.weight",  # the third block; variant 0 has two
        ("block_4", "expand", "conv", "kernel"): "blocks.2.0.conv_pw.weight",
    }
    assert {path: arrays[path][0] for path in names} == names


def test_efficientnet_pytorch_names_cover_the_backbone():
    model, ends = nnx.eval_shape(build), {"_conv_head.weight", "_bn1.weight", "_fc.bias"}
    arrays, unused, _ = model.pretrained(["_conv_stem.weight", *ends])
    assert set(arrays) == {path for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert len({key for key, _ in arrays.values()}) == len(arrays) and unused == ends
    names = {
        ("stem", "norm", "mean"): "_bn0.running_mean",
        ("block_0", "depthwise", "norm", "scale"): "_blocks.0._bn1.weight",
        ("block_15", "expand", "norm", "bias"): "_blocks.15._bn0.bias",
        ("block_15", "project", "conv", "kernel"): "_blocks.15._project_conv.weight",
    }
    assert {path: arrays[path][0] for path in names} == names


def test_mismatched_pretrained_weights_raise_a_user_error():
    with pytest.raises(UserError, match=r"it has none of 'conv_stem\.weight' \(timm\), '_conv_stem"):
        nnx.eval_shape(build).pretrained(["features.0.0.weight"])
    with pytest.raises(UserError, match="norm='group' has none"):
        nnx.eval_shape(lambda: build(norm="group")).pretrained(["conv_stem.weight"])
    with pytest.raises(UserError, match=r"variant=5 .* 0 or 1 or 2 or 3 or 4$"):
        registry.build_backbone(
            dict(name="efficientnet_lite", variant=5, width=1.0, depth=1.0, norm="batch", momentum=0.9),
            dtype="float32",
            rngs=nnx.Rngs(0),
        )


@pytest.fixture(scope="module")
def imagenet(real_data):
    """Return the model with ImageNet weights, and these weights by timm's names."""
    weights, model = load_file(real_data / "weights" / "efficientnet_lite0.safetensors"), draw(build)
    arrays, unused, _ = model.pretrained(weights)
    assert {key for key, _ in arrays.values()} | unused == set(weights)
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        key, convert = arrays[path]
        put(variable, convert(weights[key]))
    nnx.update(model, state)
    return model, weights


def test_imagenet_weights_classify_photographs(imagenet, real_data):
    model, weights = imagenet
    last = nnx.jit(lambda model, images: model(images, train=False)[32])
    statistics = [weights[f"bn2.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    for name, classes, least in (("34", ZEBRA, 0.9), ("36", UMBRELLA, 0.8), ("42", POODLES, 0.4)):
        image = Image.open(real_data / "coco" / "train2017" / f"{name:0>12}.jpg").convert("RGB")
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        x = np.asarray(last(model, (np.asarray(square, np.float32)[None] - 127) / 128))
        mean, var, scale, bias = statistics
        x = (x @ weights["conv_head.weight"][:, :, 0, 0].T - mean) / np.sqrt(var + 1e-3) * scale + bias
        logits = np.clip(x, 0, 6).mean((0, 1, 2)) @ weights["classifier.weight"].T + weights["classifier.bias"]
        likely = np.exp(logits - logits.max())
        assert likely.argmax() in classes and likely[classes].sum() / likely.sum() > least, name


def test_features_equal_timm(imagenet):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    model, weights = imagenet
    twin = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, strict=False)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 97, 80, 3)).astype(np.float32)
    with torch.no_grad():
        expected = [
            feature.numpy().transpose(0, 2, 3, 1) for feature in twin(torch.from_numpy(images).permute(0, 3, 1, 2))
        ]
    features = nnx.jit(lambda model, images: model(images, train=False))(model, images)
    for ours, theirs in zip(features.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
