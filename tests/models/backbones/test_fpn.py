import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from models.backbones.fpn import FPN
from tests.models.drawn import draw, put

RESNET = dict(name="resnet", layers=10, width=0.07, norm="batch", momentum=0.9, output_stride=32)
TINY = dict(bottom_up=RESNET, width=8, finest=8, coarsest=128, coarser="p5")
SIZE = (75, 109)


def build(**fields):
    return FPN(dtype="float32", rngs=nnx.Rngs(0), **TINY | fields)


def outline(**fields):
    return nnx.eval_shape(lambda: build(**fields))


@pytest.mark.parametrize(
    ("fields", "strides"),
    [
        (dict(), [8, 16, 32, 64, 128]),
        (dict(coarser="c5"), [8, 16, 32, 64, 128]),
        (dict(finest=4, coarsest=64, coarser="pool", norm="group"), [4, 8, 16, 32, 64]),
        (dict(finest=16, coarsest=32, norm="batch"), [16, 32]),
        (dict(bottom_up=RESNET | dict(output_stride=16)), [8, 16, 32, 64, 128]),
        (dict(bottom_up=dict(name="vgg", layers=11, width=0.1, norm="none", momentum=0.9)), [8, 16, 32, 64, 128]),
    ],
)
def test_features_have_the_strides_of_the_fields(fields, strides):
    model = outline(**fields)
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, images: model(images, train=True), model, images)
    assert model.channels == dict.fromkeys(strides, 8) and list(features) == strides
    for stride, feature in features.items():
        assert feature.shape == (2, *(-(-side // stride) for side in SIZE), 8)


@pytest.mark.parametrize(
    ("coarser", "extra"),
    [("pool", 0), ("p5", 2 * (9 * 8 * 8 + 8)), ("c5", 9 * 32 * 8 + 8 + 9 * 8 * 8 + 8)],
)
def test_parameter_count_is_the_sum_over_the_convolutions(coarser, extra):
    state = nnx.to_flat_state(nnx.state(outline(coarser=coarser), nnx.Param))
    own = sum(np.prod(leaf.shape) for path, leaf in state if path[0] != "bottom_up")
    assert own == sum(c * 8 + 8 + 9 * 8 * 8 + 8 for c in (8, 16, 32)) + extra


def convolve(x, conv, stride=1):
    """Convolve in a loop over the kernel's taps.

    The padding is half the kernel's size on every side. For stride 1 this is SAME padding.
    """
    kernel, bias = (np.asarray(array[...], np.float64) for array in (conv.kernel, conv.bias))
    reach = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    rows, columns = (range(0, side - 2 * reach, stride) for side in x.shape[1:3])
    y = np.zeros((len(x), len(rows), len(columns), kernel.shape[-1])) + bias
    for i, j in np.ndindex(*kernel.shape[:2]):
        y += x[:, i : i + rows.stop : stride, j : j + columns.stop : stride] @ kernel[i, j]
    return y


class Fixed(nnx.Module):
    """A bottom-up network that returns given features."""

    def __init__(self, features):
        self.features = nnx.data(features)

    def __call__(self, images, *, train, rngs=None):
        return self.features


@pytest.mark.parametrize("coarser", ["p5", "c5", "pool"])
def test_features_equal_a_loop(coarser):
    """Some feature maps have odd sizes, so their halves are rounded up."""
    model, generator = draw(lambda: build(coarser=coarser)), np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] == "bias":
            put(variable, generator.uniform(-0.5, 0.5, variable.shape))
    seen = {
        stride: generator.standard_normal((1, *(-(-side // stride) for side in SIZE), model.bottom_up.channels[stride]))
        for stride in (8, 16, 32)
    }
    merged, expected = None, {}
    for stride in (32, 16, 8):
        lateral = convolve(seen[stride], getattr(model, f"lateral_{stride}"))
        if merged is not None:
            rows, columns = (
                [i * small // large for i in range(large)]
                for small, large in zip(merged.shape[1:3], lateral.shape[1:3], strict=True)
            )
            lateral = lateral + merged[:, rows][:, :, columns]
        merged = lateral
        expected[stride] = convolve(merged, getattr(model, f"output_{stride}"))
    if coarser == "pool":
        expected[64], expected[128] = expected[32][:, ::2, ::2], expected[32][:, ::4, ::4]
    else:
        expected[64] = convolve(seen[32] if coarser == "c5" else expected[32], model.extra_64, 2)
        expected[128] = convolve(np.maximum(expected[64], 0), model.extra_128, 2)

    model.bottom_up = Fixed({stride: jnp.asarray(x, jnp.float32) for stride, x in seen.items()})
    features = nnx.jit(lambda model: model(np.zeros((1, *SIZE, 3), np.float32), train=False))(model)
    assert list(features) == [8, 16, 32, 64, 128]
    for stride, feature in features.items():
        np.testing.assert_allclose(feature, expected[stride], rtol=1e-4, atol=1e-4)


def test_initial_kernels_are_uniform_with_the_published_variance():
    model = build(width=32)
    for conv, fan_in in ((model.lateral_32, 32), (model.output_8, 9 * 32), (model.extra_64, 9 * 32)):
        kernel = np.asarray(conv.kernel[...])
        assert np.abs(kernel).max() <= np.sqrt(3 / fan_in)
        np.testing.assert_allclose(kernel.var() * fan_in, 1, rtol=0.1)
        assert not np.any(conv.bias[...])


def test_every_parameter_has_a_gradient():
    graphdef, params, rest = nnx.split(draw(lambda: build(norm="batch")), nnx.Param, ...)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)

    @jax.jit
    def gradients(params, rest):
        def loss(params):
            features = nnx.merge(graphdef, params, rest, copy=True)(images, train=True)
            return sum(jnp.square(x - jnp.arange(x.size).reshape(x.shape) / x.size).mean() for x in features.values())

        return jax.grad(loss)(params)

    for path, gradient in nnx.to_flat_state(gradients(params, rest)):
        assert np.isfinite(gradient[...]).all() and np.abs(gradient[...]).max() > 0, path


def test_invalid_fields_raise_a_user_error():
    place = r"config\.model\.backbone"
    for fields, message in (
        (dict(bottom_up=RESNET | dict(layers=20)), place + r"\.bottom_up\.layers=20 is not valid; it must be 10 or"),
        (
            dict(bottom_up=RESNET | dict(name="resnt")),
            place + r"\.bottom_up\.name: unknown backbone 'resnt'; did you mean",
        ),
        (dict(bottom_up=dict(name="resnet")), place + r"\.bottom_up\.layers: resnet needs this field"),
        (dict(bottom_up=3), place + r"\.bottom_up=3 is not valid; it must hold fields"),
        (dict(coarsest=256), place + r"\.coarsest=256 .* 32 or 64 or 128"),
        (dict(coarser="c4"), place + r"\.coarser='c4' .* 'pool' or 'c5' or 'p5'"),
        (
            dict(bottom_up=RESNET | dict(output_stride=8), finest=16),
            place + r"\.bottom_up: resnet has features of the strides \[2, 4, 8\], .* finest=16 also needs \[16\]",
        ),
    ):
        with pytest.raises(UserError, match=message):
            nnx.eval_shape(
                lambda fields=fields: registry.build_backbone(
                    dict(name="fpn", **TINY | fields), dtype="float32", rngs=nnx.Rngs(0)
                )
            )


def test_features_equal_torchvision():
    """The reference is torchvision's FPN with P6 and P7, with the same weights."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchvision.ops.feature_pyramid_network", reason="compares with torchvision's FPN")

    for coarser in ("p5", "c5"):
        model, generator = build(coarser=coarser), np.random.default_rng(0)
        channels = [model.bottom_up.channels[stride] for stride in (8, 16, 32)]
        extra = theirs.LastLevelP6P7(8 if coarser == "p5" else channels[-1], 8)
        reference = theirs.FeaturePyramidNetwork(channels, 8, extra)
        pairs = []
        for index, stride in enumerate((8, 16, 32)):
            pairs.append((getattr(model, f"lateral_{stride}"), reference.inner_blocks[index][0]))
            pairs.append((getattr(model, f"output_{stride}"), reference.layer_blocks[index][0]))
        pairs += [(model.extra_64, extra.p6), (model.extra_128, extra.p7)]
        for conv, other in pairs:
            conv.kernel[...] = jnp.asarray(other.weight.detach().numpy().transpose(2, 3, 1, 0))
            conv.bias[...] = jnp.asarray(other.bias.detach().numpy())
        seen = {
            stride: generator.standard_normal((2, *(-(-side // stride) for side in SIZE), count)).astype(np.float32)
            for stride, count in zip((8, 16, 32), channels, strict=True)
        }
        with torch.no_grad():
            expected = reference({str(k): torch.from_numpy(x.transpose(0, 3, 1, 2)) for k, x in seen.items()})
        model.bottom_up = Fixed({stride: jnp.asarray(x) for stride, x in seen.items()})
        for ours, other in zip(model(jnp.zeros((2, *SIZE, 3)), train=False).values(), expected.values(), strict=True):
            np.testing.assert_allclose(ours, other.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
