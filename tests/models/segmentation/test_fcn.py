import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import registry
from models.segmentation.fcn import Upsample, bilinear
from tests.models.drawn import put
from tests.models.segmentation.calls import pixels

FULL = dict(
    backbone=dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9),
    stride=8,
    fc=4096,
    dropout=0.5,
    padding="paper",
    upsampling="paper",
    skip_scales=(1.0, 1.0),
    dtype="float32",
)
LIGHT = FULL | dict(backbone=dict(name="vgg", layers=11, width=0.1, norm="none", momentum=0.9), fc=24, padding="same")


def build(num_classes=3, **fields):
    return registry.build("fcn", rngs=nnx.Rngs(0), num_classes=num_classes, **LIGHT | fields)


def count(state):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(state))


def full_size_count(stride, upsampling):
    return count(nnx.state(nnx.eval_shape(lambda: build(21, **FULL | dict(stride=stride, upsampling=upsampling)))))


@nnx.jit
def compiled_scores(model, images):
    return model.scores(images, train=False)


def scores_of(model, images):
    scores, start = compiled_scores(model, images)
    return np.asarray(scores), start


def flat(model):
    return dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))


def perturb(model):
    """Change every parameter, so that the zeros of the score layers do not hide a mistake."""
    generator = np.random.default_rng(0)
    for variable in flat(model).values():
        put(variable, np.asarray(variable[...]) + 0.05 * generator.standard_normal(variable.shape))


def test_parameter_count_equals_the_paper():
    vgg = (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512 + 5 * 512 * 512) * 9
    vgg += 2 * 64 + 2 * 128 + 3 * 256 + 6 * 512  # biases
    vgg += 7 * 7 * 512 * 4096 + 4096 + 4096 * 4096 + 4096
    score_fc7, score_pool4, score_pool3 = 4096 * 21 + 21, 512 * 21 + 21, 256 * 21 + 21
    twice = 4 * 4 * 21 * 21
    expected = {
        32: vgg + score_fc7,
        16: vgg + score_fc7 + score_pool4 + twice,
        8: vgg + score_fc7 + score_pool4 + score_pool3 + 2 * twice,
    }
    for stride, number in expected.items():
        made = {name: full_size_count(stride, name) for name in ("paper", "learned", "fixed")}
        assert made["paper"] == number
        assert made["learned"] == number + (2 * stride) ** 2 * 21 * 21
        assert made["fixed"] == number - {32: 0, 16: 1, 8: 2}[stride] * twice


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_logits_have_the_size_of_the_image(padding, stride):
    model = nnx.eval_shape(lambda: build(5, stride=stride, padding=padding, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    for size in ((64, 64), (65, 47), (1, 31)):
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        logits = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
        assert logits.shape == (2, *size, 5) and logits.dtype == jnp.float32


class Features(nnx.Module):
    """A backbone with random features, in the sizes that Caffe has for an image of 500x500 padded by 100."""

    def __init__(self, channels):
        generator = np.random.default_rng(2)
        sizes = {4: 175, 8: 88, 32: 16}
        self.features = nnx.data(
            {
                stride: jnp.asarray(generator.standard_normal((1, size, size, channels[stride])), jnp.float32)
                for stride, size in sizes.items()
            }
        )

    def __call__(self, images, *, train, rngs):
        return self.features


def deconvolution(x, factor):
    """Upsample bilinearly as Caffe does, from [h,w,C] to [(h + 1) * factor, (w + 1) * factor, C]."""
    for axis in (0, 1):
        line = np.zeros(((x.shape[axis] + 1) * factor, x.shape[axis]))
        for i in range(x.shape[axis]):
            line[i * factor : (i + 2) * factor, i] = bilinear(factor)
        x = np.moveaxis(np.tensordot(line, x, (1, axis)), 0, axis)
    return x


def test_crops_equal_the_released_networks():
    images = jax.ShapeDtypeStruct((1, 500, 500, 3), jnp.float32)
    for stride in (32, 16, 8):
        model = build(stride=stride, padding="paper", skip_scales=(0.5, 0.25))
        model.backbone = Features(model.backbone.channels)
        for name in ("score_fc7", "score_pool4", "score_pool3")[: {32: 1, 16: 2, 8: 3}[stride]]:
            kernel = getattr(model, name).kernel
            put(kernel, np.random.default_rng(3).standard_normal(kernel.shape))

        def score(stride, layer, scale=1.0, model=model):
            x = np.asarray(model.backbone.features[stride])[0]
            if stride < 32:  # the pooling rounds sizes up
                x = np.pad(x, ((0, len(x) % 2),) * 2 + ((0, 0),), constant_values=-np.inf)
                x = x.reshape(len(x) // 2, 2, len(x) // 2, 2, -1).max((1, 3))
            return scale * x @ np.asarray(layer.kernel[0, 0])

        expected, last = score(32, model.score_fc7), 19
        if stride < 32:
            expected, last = deconvolution(expected, 2), 27
            expected += score(8, model.score_pool4, 0.5)[5:39, 5:39]
        if stride < 16:
            expected, last = deconvolution(expected, 2), 31
            expected += score(4, model.score_pool3, 0.25)[9:79, 9:79]
        expected = deconvolution(expected, stride)[last : last + 500, last : last + 500]
        logits = nnx.jit(lambda model, images: model(images, train=False))(model, np.zeros(images.shape, np.float32))
        np.testing.assert_allclose(np.asarray(logits)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["paper", "same"])
def test_finer_network_starts_with_the_outputs_of_the_coarser_one(padding):
    """Parameters that both networks have are copied by path.

    The new parameters of the finer network do not change its outputs.
    """
    images, previous = pixels(2, 40, 51, 3, seed=1), None
    for stride in (32, 16, 8):
        model = build(stride=stride, padding=padding)
        if previous is not None:
            old, new = flat(previous), flat(model)
            assert old.keys() < new.keys()
            pool, twice = {16: ("score_pool4", "upsample_fc7"), 8: ("score_pool3", "upsample_pool4")}[stride]
            assert new.keys() - old.keys() == {(pool, "kernel"), (pool, "bias"), (twice, "kernel")}
            for path, variable in old.items():
                new[path].set_value(variable[...])
            expected, before = scores_of(previous, images)
            scores, start = scores_of(model, images)
            up = deconvolution(np.asarray(expected[0]), 2)
            offset = (start - before + stride) // stride  # Caffe's map starts `stride` rows before the coarser one
            up = up[offset : offset + scores.shape[1], offset : offset + scores.shape[2]]
            np.testing.assert_allclose(scores[0], up, rtol=1e-4, atol=1e-5)
            assert np.abs(up).max() > 0.1
            perturb(model)  # the next network copies all of them
            for path in [(pool, "kernel"), (twice, "kernel")]:
                put(new[path], np.random.default_rng(5).standard_normal(new[path].shape))
        else:
            perturb(model)
            kernel = model.score_fc7.kernel
            put(kernel, np.random.default_rng(4).standard_normal(kernel.shape))
        previous = model


@nnx.jit
def upsample(layer, x):
    return layer(x)


@pytest.mark.parametrize("learned", [True, False])
def test_bilinear_upsampling_is_exact_on_a_ramp(learned):
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(4.0), indexing="ij")
    ramp = np.stack([rows - 2 * columns, 3 + columns], -1)[None].astype(np.float32)
    for factor in (2, 8):
        y = upsample(Upsample(2, factor, learned=learned, dtype="float32"), ramp)
        # Pixel centres are at (i + 0.5) / factor - 0.5 in the coarse map. Half a coarse pixel at the border fades to 0.
        row, column = ((np.arange(n * factor) + 0.5) / factor - 0.5 for n in (5, 4))
        row, column = np.meshgrid(row, column, indexing="ij")
        inner = slice(factor // 2, -(factor // 2))
        expected = np.stack([row - 2 * column, 3 + column], -1)[inner, inner]
        np.testing.assert_allclose(np.asarray(y)[0, inner, inner], expected, rtol=1e-5, atol=1e-5)


def test_fixed_and_learned_upsampling_are_initially_equal():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype(np.float32)
    for factor in (2, 16):
        fixed, learned = (upsample(Upsample(4, factor, learned=own, dtype="float32"), x) for own in (False, True))
        np.testing.assert_allclose(fixed, learned, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only():
    model = build(stride=32)
    perturb(model)
    images = pixels(1, 32, 32, 3, seed=1)
    call = nnx.jit(
        lambda model, key, train: model(images, train=train, rngs=nnx.Rngs(dropout=key)), static_argnames="train"
    )
    keys = [jax.random.key(seed) for seed in (0, 1)]
    first, second = (call(model, key, train=True) for key in keys)
    assert not np.allclose(first, second)
    first, second = (call(model, key, train=False) for key in keys)
    np.testing.assert_array_equal(first, second)


def test_pretrained_weights_fill_the_backbone_with_fc6_and_fc7():
    model = nnx.eval_shape(build)
    mapping, unused, _ = model.pretrained(["features.0.weight", "classifier.0.weight", "classifier.6.weight"])
    assert set(mapping) == {("backbone", *path) for path, _ in nnx.to_flat_state(nnx.state(model.backbone))}
    assert mapping["backbone", "fc6", "kernel"][0] == "classifier.0.weight" and unused == {"classifier.6.weight"}


def test_invalid_fields_raise_a_user_error():
    for field, value, message in (
        ("stride", 4, r"model\.stride=4 .* 32 or 16 or 8$"),
        ("padding", "valid", r"model\.padding='valid' .* 'paper' or 'same'$"),
        ("upsampling", "nearest", r"model\.upsampling='nearest' .* 'paper' or 'learned' or 'fixed'$"),
        ("skip_scales", (1.0,), r"model\.skip_scales=\(1\.0,\) .* 2 values, each a number$"),
        ("backbone", dict(name="resnet"), r"model\.backbone\.name: unknown backbone 'resnet'; known: vgg$"),
    ):
        with pytest.raises(UserError, match=message):
            build(**{field: value})
