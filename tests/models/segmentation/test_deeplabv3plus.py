import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from errors import UserError
from models import layers, registry
from models.backbones.resnet import ResNet
from models.segmentation.deeplabv3plus import ASPP
from tests.models.drawn import draw, put
from tests.models.segmentation.calls import pixels

BACKBONE = dict(name="resnet", layers=50, width=1.0, norm="batch", momentum=0.9, output_stride=16)
FULL = dict(
    backbone=BACKBONE,
    aspp=256,
    rates=(6, 12, 18),
    decoder=256,
    low_level=48,
    separable=False,
    dropout=0.1,
    norm="batch",
    momentum=0.9,
    dtype="float32",
)
LIGHT = FULL | dict(
    backbone=BACKBONE | dict(layers=10, width=0.25), aspp=32, rates=(1, 2, 3), decoder=32, low_level=16, dropout=0.0
)


def build(num_classes=3, **fields):
    return registry.build("deeplabv3plus", rngs=nnx.Rngs(0), num_classes=num_classes, **LIGHT | fields)


def count(module):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def point(channels_in, channels_out):
    return channels_in * channels_out + 2 * channels_out


def plain(channels_in, channels_out):
    return 9 * channels_in * channels_out + 2 * channels_out


def separable(channels_in, channels_out):
    return 9 * channels_in + 2 * channels_in + point(channels_in, channels_out)


@pytest.mark.parametrize("conv", [plain, separable])
def test_parameter_count_equals_the_architecture(conv):
    model = nnx.eval_shape(lambda: build(num_classes=21, **FULL | dict(separable=conv is separable)))
    resnet_50 = 23_508_032
    aspp = 2 * point(2048, 256) + 3 * conv(2048, 256) + point(5 * 256, 256)
    decoder = point(256, 48) + conv(256 + 48, 256) + conv(256, 256)
    assert count(model.backbone) == resnet_50
    assert count(model.aspp) == aspp
    assert count(model) == resnet_50 + aspp + decoder + 256 * 21 + 21


@pytest.mark.parametrize("output_stride", [16, 8])
def test_logits_have_the_size_of_the_image(output_stride):
    backbone = LIGHT["backbone"] | dict(output_stride=output_stride)
    model = nnx.eval_shape(lambda: build(num_classes=5, backbone=backbone, separable=True, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    for size in ((97, 70), (1, 31)):
        images = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
        logits = nnx.eval_shape(lambda model, images: model(images, train=False), model, images)
        assert logits.shape == (2, *size, 5) and logits.dtype == jnp.float32


@pytest.mark.parametrize("separable", [False, True])
def test_aspp_concatenates_the_branches_of_its_rates(separable):
    make_norm = partial(layers.norm, "batch", momentum=0.9, epsilon=1e-5, dtype="float32")
    fields = dict(separable=separable, dropout=0.0, norm=make_norm, dtype="float32")
    model = draw(lambda: ASPP(4, 8, rates=(3, 1), rngs=nnx.Rngs(0), **fields))
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] == "kernel":  # positive, so that no ReLU hides a pixel that a branch reads
            put(variable, np.abs(variable[...]))
    spike = np.zeros((2, 9, 11, 4), np.float32)
    spike[:, 4, 5] = np.abs(pixels(4))
    x = pixels(2, 9, 11, 4, seed=1)

    @nnx.jit
    def branches(model, x):
        mean = nnx.relu(model.image(x.mean((1, 2), keepdims=True), train=False))
        point = nnx.relu(model.point(x, train=False))
        atrous = [branch(x, train=False) for branch in model.atrous]
        return [point, *atrous, jnp.broadcast_to(mean, point.shape)]

    # With statistics of (0, 1) and biases of 0, zeros stay zero. So each branch is nonzero where it reads the spike.
    for rate, branch in zip((3, 1), branches(model, spike)[1:-1], strict=True):
        expected = {(row, column) for row in (4 - rate, 4, 4 + rate) for column in (5 - rate, 5, 5 + rate)}
        assert {tuple(place) for place in np.argwhere(np.abs(branch).max((0, 3))).tolist()} == expected
    # A projection that copies one part of its inputs returns the branch at that place.
    whole = nnx.jit(lambda model, x: model(x, train=False, rngs=None))
    for number, branch in enumerate(branches(model, x)):
        kernel = np.zeros((1, 1, 32, 8))
        kernel[0, 0, 8 * number : 8 * number + 8] = np.eye(8)
        put(model.project.conv.kernel, kernel)
        np.testing.assert_allclose(whole(model, x), np.asarray(branch) / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-5)


def test_aspp_ends_with_dropout_in_training_only():
    make_norm = partial(layers.norm, "group", momentum=0.9, epsilon=1e-5, dtype="float32")
    fields = dict(rates=(), separable=False, norm=make_norm, dtype="float32")
    x = pixels(1, 5, 6, 4)
    half, none = (draw(lambda rate=rate: ASPP(4, 8, dropout=rate, rngs=nnx.Rngs(0), **fields)) for rate in (0.5, 0.0))

    @nnx.jit(static_argnames="train")
    def call(model, x, train):
        return model(x, train=train, rngs=nnx.Rngs(dropout=0) if train else None)

    dropped, kept = (np.asarray(call(model, x, train=True)) for model in (half, none))
    assert 0.2 < ((dropped == 0) & (kept > 0)).sum() / (kept > 0).sum() < 0.8
    np.testing.assert_allclose(dropped[dropped > 0], 2 * kept[dropped > 0], rtol=1e-5)
    np.testing.assert_array_equal(call(half, x, train=False), kept)


def test_examples_are_independent_in_evaluation():
    model, images = draw(build), pixels(3, 37, 50, 3)
    other = images * np.array([1, 0.5, 0.5], np.float32)[:, None, None, None]
    forward = jax.jit(lambda images: model(images, train=False))
    ours, theirs = (np.asarray(forward(x)) for x in (images, other))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    assert np.abs(ours[1] - theirs[1]).max() > 1e-3


def test_backbone_without_stride_4_raises_a_user_error(monkeypatch):
    monkeypatch.setattr(ResNet, "channels", {8: 16, 16: 32})
    with pytest.raises(UserError, match="needs features of stride 4"):
        nnx.eval_shape(build)
